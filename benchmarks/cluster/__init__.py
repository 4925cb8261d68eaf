"""The engine over a cluster: what more primaries and more shards cost and bring (``make bench-cluster``)."""
