"""The native routes of the HTTP service."""
