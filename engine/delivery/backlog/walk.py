"""The position of a route's walk through its backlog.  (pure)

A walk goes round in the order of keys, lap after lap. A finished lap knows when the first row that it skipped is due,
so that nothing is walked again before there is something to find.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable

NEVER_MS = 1 << 62
OUT_KEYS_MAX = 100_000
LOOKED_AT_MAX = 100
"""How many held rows one look checks for being free; the next look continues with others."""
RECHECK_MS = 1_000
"""How often to check whether rows that were held when they were due are free."""


class Walk:
    """One route's walk; ``after`` is the key that was passed last, None at the beginning."""

    def __init__(self) -> None:
        self.after: bytes | None = None
        self.until: bytes | None = None
        """Where the lap ends once it has wrapped around; None if it ends with the last row."""
        self.is_wrapped = True
        self.is_over = False
        self.out: OrderedDict[bytes, None] = OrderedDict()
        """Rows of this lap that were due, and were handed out or skipped: they still exist."""
        self.looked_ms = 0
        self._later_ms = NEVER_MS
        self._is_blind = False

    def begin(self) -> None:
        """Begin a lap where the last one ended."""
        self.until = self.after
        self.is_wrapped = self.after is None
        self.is_over = False
        self.out.clear()
        self._later_ms = NEVER_MS
        self._is_blind = False

    def reach_the_end(self) -> None:
        """Note that no row follows: continue at the beginning, or end the lap."""
        if self.is_wrapped:
            self.is_over = True
            return
        self.is_wrapped = True
        self.after = None

    def found_later(self, due_ms: int) -> None:
        """Note that a row is due at this time, and not before."""
        self._later_ms = min(self._later_ms, due_ms)

    def found_due(self, key: bytes) -> None:
        """Note that this row is due, and is with the caller or held."""
        if len(self.out) < OUT_KEYS_MAX:
            self.out[key] = None
        else:
            self._is_blind = True

    def put(self, keys: Iterable[bytes], due_ms: int) -> None:
        """Note that these rows were added, the first due at this time."""
        for key in keys:
            self.out.pop(key, None)
        self.found_later(due_ms)

    def finds_more(self, now_ms: int, *held: Container[bytes]) -> bool:
        """Tell whether another lap could find a row that is due and in none of ``held``.

        If very many are held, one that was released may be found only by one of the next calls.
        """
        if self._is_blind or self._later_ms <= now_ms:
            return True
        for _ in range(min(len(self.out), LOOKED_AT_MAX)):
            key = next(iter(self.out))
            if not any(key in keys for keys in held):
                return True
            self.out.move_to_end(key)
        return False

    def next_due_ms(self) -> int:
        """Return when to look again: 0 for now."""
        if not self.is_over:
            return 0
        if self.out or self._is_blind:
            return min(self._later_ms, self.looked_ms + RECHECK_MS)
        return self._later_ms
