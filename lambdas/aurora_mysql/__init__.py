"""Batches of changed keys → rows of Aurora MySQL tables."""
