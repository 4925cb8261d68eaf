"""Shared memory between a subscriber and an invoker: layout, ring, wake-up, counters."""
