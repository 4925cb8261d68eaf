"""What is measured: the parts alone, the whole path, its neighbours."""
