"""A turn from its request to its commit."""
