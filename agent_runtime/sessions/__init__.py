"""Sessions, their versions, and where their state is."""
