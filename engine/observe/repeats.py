"""Log lines of one kind that come again and again: the first few are written, the others counted.  (pure)"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

KINDS_MAX = 1_000
"""Kinds that are told apart at once; the one that is longest known is forgotten first."""


@dataclass(slots=True)
class _Kind:
    since_ms: int
    written: int = 0
    left_out: int = 0


class Repeats:
    """How often each kind of line came lately; times are monotonic milliseconds."""

    def __init__(self, count_max: int, interval_ms: int) -> None:
        self._count_max, self._interval_ms = count_max, interval_ms
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self.left_out = 0
        """Lines that were left out and not counted in any line yet."""

    def take(self, kind: Hashable, moment_ms: int) -> bool:
        """Tell whether a line of this kind is to be written."""
        if not self._count_max:
            return True
        known = self._kinds.get(kind)
        if known is None:
            while len(self._kinds) >= KINDS_MAX:
                self.left_out -= self._kinds.popitem(last=False)[1].left_out
            known = self._kinds[kind] = _Kind(moment_ms)
        elif not known.left_out and moment_ms - known.since_ms >= self._interval_ms:
            known.since_ms, known.written = moment_ms, 0
        if known.written < self._count_max:
            known.written += 1
            return True
        known.left_out += 1
        self.left_out += 1
        return False

    def ended(self, moment_ms: int) -> list[tuple[Hashable, int]]:
        """Return the kinds of which lines were left out in a time that is over, and how many; once each."""
        if not self.left_out:
            return []
        found = []
        for kind, known in self._kinds.items():
            if known.left_out and moment_ms - known.since_ms >= self._interval_ms:
                found.append((kind, known.left_out))
                self.left_out -= known.left_out
                known.since_ms, known.written, known.left_out = moment_ms, 0, 0
        return found
