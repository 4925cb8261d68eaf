"""Where batches go: one file each, behind the small interface in `base`."""
