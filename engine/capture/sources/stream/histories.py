"""Which history of the server everything that was read belongs to, and what another one may have lost.  (pure)

A failover may lose the newest writes, entries and values alike; so may a restarted server. What was read of them was
delivered, and no entry of the new history says that it was undone. So if the history (``master_replid``) has changed,
or a stream arrives with an unknown history, a scan finds the keys that its entries may name. The new history counts as
the stream's own only once that is settled: a process that is killed before leaves the scan to its successor.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.capture.sources.stream.followed import OWED, Followed

_ID = re.compile(rb"^master_replid:(\w+)", re.MULTILINE)


def history_of(info: object) -> bytes:
    """Return the history that ``INFO replication`` names; b"" if the server does not say."""
    found = _ID.search(info) if isinstance(info, bytes) else None
    return found[1] if found else b""


class Histories:
    """Those of one feed's streams."""

    def __init__(self, streams: Collection[Followed]) -> None:
        self._streams = streams
        self._paid_at = 0
        """The mark behind which everything is that the scans have found; 0 until they are over."""
        self._wanted: list[Followed] = []

    def look(self, stream: Followed, history: bytes) -> None:
        """Take in the server's present history, if it is reported."""
        stream.served = history or stream.served
        if not stream.history:
            stream.history = history
        elif stream.history == OWED or history:
            served = stream.served or OWED
            is_its_own = stream.history == served != OWED and not stream.owes
            if stream.owes != served and not is_its_own:
                self._want(stream)

    def owe(self) -> None:
        """Owe a scan for all of them, whatever their history is, until it is settled, even across a start."""
        for stream in self._streams:
            stream.history = OWED
            self._want(stream)

    def _want(self, stream: Followed) -> None:
        stream.owes = stream.served or OWED
        self._wanted.append(stream)
        self._paid_at = 0

    def take_wanted(self) -> list[Followed]:
        """Return those for which a scan is to begin now."""
        wanted, self._wanted = self._wanted, []
        return wanted

    @property
    def is_owing(self) -> bool:
        """Tell whether scans are owed, all were asked for, and none is under a mark yet."""
        return not self._wanted and not self._paid_at and any(stream.owes for stream in self._streams)

    def pay(self, mark: int) -> None:
        """Note that all scans are over, and that what they found is under this mark."""
        self._paid_at = mark

    def settle(self, mark: int) -> None:
        """Take in that everything up to this mark is settled."""
        if self._paid_at and mark >= self._paid_at:
            self.forgive()

    def forgive(self) -> None:
        """Owe nothing."""
        self._paid_at = 0
        for stream in self._streams:
            if stream.owes:
                stream.history, stream.owes = stream.served, b""
