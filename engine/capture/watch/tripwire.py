"""Whether a ``FLUSHDB`` that the server has counted concerned our database: a watched key of ours shows it.  (pure)

The server counts flushes, but not by database. ``WATCH`` fails the next transaction where a key that was there has
changed, and a flush of its database changes it, on every version. So one of our keys is watched. It may change by
itself: then nothing is proved, and the flush counts as ours. Nothing is written for this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hiredis

from engine.redis.connection import pack

REFRESH_LOOKS = 30
"""A key that is watched for long has probably changed by itself: another one is taken after this many looks."""

_COUNTS = pack("INFO", "commandstats")


class Tripwire:
    """One connection's watched key. ``flushes_in`` reads their count in the answer to ``INFO commandstats``."""

    def __init__(self, flushes_in: Callable[[object], int]) -> None:
        self.others = 0
        """How many flushes are proved to be of other databases."""
        self._flushes_in = flushes_in
        self._is_off = False
        self._is_set = False
        """Whether a key that existed then has been watched since before the count was `_flushes`."""
        self._flushes = -1
        self._key: bytes | None = None
        self._looks = 0

    def wants(self, flushes: int) -> bool:
        """Tell whether to ask, after a look that has found this count of flushes."""
        self._looks += 1
        is_stale = not self._is_set or self._looks >= REFRESH_LOOKS
        return not self._is_off and flushes >= 0 and (is_stale or flushes != self._flushes)

    def questions(self) -> tuple[bytes, ...]:
        """Return the packed commands that try the key, and watch another one."""
        watch = (pack("WATCH", self._key), pack("EXISTS", self._key)) if self._key is not None else ()
        return (_COUNTS, pack("MULTI"), pack("EXEC"), *watch, _COUNTS, pack("RANDOMKEY"))

    def take(self, replies: Sequence[object]) -> int:
        """Take in the answers; return how many flushes were counted when the key was tried, −1 if that is unknown."""
        self._looks = 0
        tried, _, executed, *watched, begun, key = replies
        before, now = self._flushes_in(tried), self._flushes_in(begun)
        refused = any(isinstance(reply, hiredis.ReplyError) for reply in replies)
        self._is_off = refused or before < 0 or now < 0
        if before < self._flushes:
            # The counts were reset.
            self.others = 0
        elif self._is_set and isinstance(executed, list):
            self.others += before - self._flushes
        self._key = key if isinstance(key, bytes) else None
        self._is_set = not self._is_off and bool(watched) and watched[-1] == 1
        # A flush between the two counts is not proved to concern another database: it counts as ours at the next look.
        self._flushes = now
        return before
