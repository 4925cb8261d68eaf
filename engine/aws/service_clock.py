"""The service's time, by the dates of its answers: this host's own clock may be wrong, and may jump."""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz

from engine.clock import monotonic_ms, now_ms

STEP_MS = 2_000
"""Dates, in whole seconds and somewhat old, differ by less than this; by more if the service's clock was set back."""


class ServiceClock:
    """What the dates of one service's answers tell.

    A date has whole seconds, and is as old as its transfer took: the newest of many is nearly right.
    """

    def __init__(self) -> None:
        self._ahead_ms: int | None = None
        self._parsed: tuple[str, int | None] = ("", None)
        """The last date and what it means, because many answers have the same one."""

    def heard(self, date: str, moment_ms: int) -> None:
        """Take in an answer's ``Date`` header that arrived at this monotonic moment."""
        unix_ms = self._unix_ms(date)
        if unix_ms is None:
            return
        ahead_ms = unix_ms - moment_ms
        known_ms = self._ahead_ms
        if known_ms is None or ahead_ms > known_ms or ahead_ms < known_ms - STEP_MS:
            self._ahead_ms = ahead_ms

    def _unix_ms(self, date: str) -> int | None:
        if date != self._parsed[0]:
            parsed = parsedate_tz(date)
            self._parsed = (date, None if parsed is None else int(mktime_tz(parsed)) * 1_000)
        return self._parsed[1]

    def now_ms(self) -> int:
        """Return the service's Unix time; this host's before the first answer."""
        return now_ms() if self._ahead_ms is None else monotonic_ms() + self._ahead_ms
