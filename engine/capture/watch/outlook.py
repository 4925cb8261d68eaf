"""What the looks of one subscription add up to: which changes are news, and since when a mark holds.  (pure)"""

from __future__ import annotations

from engine.capture.watch.sight import Change, Sight, compare, follow
from engine.model import Missed


class Outlook:
    """The newest look, and what has held since an earlier one."""

    def __init__(self) -> None:
        self.sight = Sight(0)
        """The newest look."""
        self.clock_ms = 0
        """How far the server's clock is ahead of this host's monotonic one, at least."""
        self._steady_ms = 0
        self._is_unsettled = False

    def begin(self, sight: Sight) -> None:
        """Take the first look of a connection; the one before it may be of another server."""
        self.sight = follow(self.sight, sight)
        self._steady_ms = sight.server_ms
        self._is_unsettled = sight.replication.is_replacing

    def take(self, sight: Sight, asked_ms: int, flags: str, *, is_deaf: bool) -> tuple[Change, bool]:
        """Take the next look, asked for at this monotonic moment; return what has changed, and whether that is news.

        A continuing state, deaf or unsettled, was reported when it began.
        """
        sight = follow(self.sight, sight)
        change = compare(self.sight, sight, flags)
        if sight.mark != self.sight.mark:
            self._steady_ms = sight.server_ms
        begins = (change.is_deaf and not is_deaf) or (change.is_unsettled and not self._is_unsettled)
        is_news = bool(change.reasons) and (begins or not (change.is_deaf or change.is_unsettled))
        self._is_unsettled = change.is_unsettled
        self.sight = sight
        self.clock_ms = sight.server_ms - asked_ms
        return change, is_news

    def mark_since(self, moment_ms: int) -> int:
        """Return the server's mark, if it has been the same since this moment (the server's clock); else 0."""
        return self.sight.mark if moment_ms >= self._steady_ms else 0

    def missed_after(self, watermark_ms: int) -> Missed:
        """Return what a gap that begins at this moment of the server's clock would miss."""
        return Missed(watermark_ms, self.mark_since(watermark_ms), clock_ms=max(0, self.clock_ms))
