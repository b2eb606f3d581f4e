"""Other ways to keep a model's state, driven on the same weights."""
