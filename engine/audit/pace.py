"""How fast an audit may go. Pure."""

from __future__ import annotations


class Pace:
    """A steady number of keys a second, without catching up after a stall."""

    def __init__(self, keys_per_s_max: int) -> None:
        self._keys_per_s_max = keys_per_s_max
        self._due_ms = 0.0

    def spend(self, keys: int, now_ms: int) -> int:
        """Return how many milliseconds to wait before these keys may be asked for."""
        begin_ms = max(self._due_ms, now_ms)
        self._due_ms = begin_ms + keys * 1_000 / self._keys_per_s_max
        return int(begin_ms - now_ms)
