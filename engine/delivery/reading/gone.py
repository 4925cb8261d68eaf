"""Whether a key that is found gone, though no event said so, was certainly removed.  (pure)

It was deleted before it was read, or unheard. But a cache that forgets must not empty the store: a server that evicts
may have evicted it, one that came back empty has lost it, and a keyspace that was flushed holds none of what waits. So
only a few count at a time; the others are left to the comparison with the destination, which has a limit and asks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.redis import eviction
from engine.redis.connection import pack

QUESTIONS = (*eviction.QUESTIONS, pack("INFO", "server"))

FOUND_GONE_MAX = 100
"""In `WINDOW_US`, by one invoker."""
WINDOW_US = 60_000_000

_UPTIME = re.compile(rb"^uptime_in_seconds:(\d+)", re.MULTILINE)


class FoundGone:
    """What was found gone lately."""

    def __init__(self) -> None:
        self._began_us = 0
        self._count = 0

    def is_taken_away(self, count: int, age_ms: int, replies: Sequence[object], now_us: int) -> bool:
        """Tell whether this many keys, whose changes are at most ``age_ms`` old, were deleted or expired.

        ``replies`` are to `QUESTIONS`, ``now_us`` is the server's time.
        """
        uptime = _UPTIME.search(eviction.joined(replies))
        if eviction.may_evict(replies) or uptime is None or int(uptime[1]) * 1_000 < age_ms:
            return False
        if now_us - self._began_us >= WINDOW_US:
            self._began_us, self._count = now_us, 0
        self._count += count
        return self._count <= FOUND_GONE_MAX
