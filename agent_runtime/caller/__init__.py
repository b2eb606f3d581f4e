"""As whom a request is served, and whether its key still stands."""
