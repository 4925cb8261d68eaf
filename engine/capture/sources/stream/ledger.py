"""Entries that were taken in, until they are settled and acknowledged.  (pure)

Entries are closed under a *mark*, which goes into the rings behind their keys as a watermark's. Once all rings have
settled that watermark, all of them are accepted, dead-lettered or in the backlog, and may be acknowledged.
A mark is never used twice, not even by a successor: it comes from the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

Ids = dict[bytes, list[bytes]]
"""By stream."""


class Ledger:
    """One feed's; ``mark`` is higher than all of its predecessors'."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        """The newest: everything closed is under it, or under one before."""
        self.count = 0
        """Entries that are not acknowledged."""
        self._open: Ids = {}
        self._closed: deque[tuple[int, dict[bytes, bytes]]] = deque()
        self._acknowledging: Ids = {}

    @property
    def has_open(self) -> bool:
        """Tell whether there are entries that are not under a mark yet."""
        return bool(self._open)

    def take(self, stream: bytes, ids: Iterable[bytes]) -> None:
        """Note entries whose keys are in the dirty set, or that name none."""
        known = self._open.setdefault(stream, [])
        before = len(known)
        known += ids
        self.count += len(known) - before

    def close(self) -> int:
        """Put what is open under a new mark, and return that: to be called while nothing is dirty."""
        if self._open:
            self.mark += 1
            # A text of ids takes a third of the memory of a list.
            self._closed.append((self.mark, {stream: b" ".join(ids) for stream, ids in self._open.items() if ids}))
            self._open = {}
        return self.mark

    def close_behind(self) -> int:
        """Return a new mark, behind everything that is dirty or was; to be called while nothing is."""
        before = self.mark
        self.mark = max(self.close(), before + 1)
        return self.mark

    def settle(self, mark: int) -> Ids:
        """Return the entries to be acknowledged now that everything up to this mark is settled."""
        found: Ids = {}
        while self._closed and self._closed[0][0] <= mark:
            for stream, closed in self._closed.popleft()[1].items():
                found.setdefault(stream, []).extend(closed.split(b" "))
        for stream, ids in found.items():
            self._acknowledging.setdefault(stream, []).extend(ids)
        return found

    def acknowledged(self, stream: bytes, count: int) -> None:
        """Note that the server has the acknowledgements of the first ``count`` of these."""
        ids = self._acknowledging.get(stream, [])
        self.count -= len(ids[:count])
        del ids[:count]

    def unacknowledged(self, stream: bytes) -> list[bytes]:
        """Return those being acknowledged that the server may not have received, because a connection was lost."""
        return list(self._acknowledging.get(stream, ()))

    def known(self, stream: bytes) -> frozenset[bytes]:
        """Return all entries of a stream that are here."""
        found = [*self._open.get(stream, ()), *self._acknowledging.get(stream, ())]
        for _, closed in self._closed:
            if ids := closed.get(stream):
                found += ids.split(b" ")
        return frozenset(found)

    def forget(self, streams: Iterable[bytes]) -> None:
        """Forget all entries of these streams: they are read again, or are another's."""
        for stream in streams:
            self.count -= len(self._open.pop(stream, ())) + len(self._acknowledging.pop(stream, ()))
            for _, closed in self._closed:
                if ids := closed.pop(stream, b""):
                    self.count -= ids.count(b" ") + 1
