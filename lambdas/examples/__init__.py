"""Functions to start your own from."""
