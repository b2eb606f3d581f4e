"""The commands of `torpor`, one module each."""
