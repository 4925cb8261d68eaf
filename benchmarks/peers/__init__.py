"""Others that do our job, on the same load and through the same faults: ``make bench-peers``."""
