"""What keys last held, as digests that outlive the process: never a value, and never the name of a key."""
