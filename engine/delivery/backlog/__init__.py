"""Keys that wait on disk."""
