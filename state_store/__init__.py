"""Content-addressed snapshots of model state in Redis: pages, states, sessions, leases."""
