"""Comparing Redis with a destination, key by key, while both change."""
