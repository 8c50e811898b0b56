"""Commands of `tracker` with a file of their own."""
