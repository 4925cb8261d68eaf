"""Which changes are traced.  (pure)

Each change has the same chance, whatever else there is, so no pattern of the load can meet one of the draw. What is
drawn is how many changes are passed over until the next one, so that those cost a subtraction together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

MILLION = 1_000_000


class Sampler:
    """Draws ``per_million`` of a million changes; ``random`` is uniform in [0, 1)."""

    def __init__(self, per_million: int, random: Callable[[], float]) -> None:
        assert 0 < per_million <= MILLION
        self._log_of_miss = math.log1p(-per_million / MILLION) if per_million < MILLION else 0.0
        self._random = random
        self._to_pass = self._draw()

    def _draw(self) -> int:
        """Return how many changes are passed over before the next one that is traced."""
        if not self._log_of_miss:
            return 0
        return int(math.log(1.0 - self._random()) / self._log_of_miss)

    def picks(self, count: int) -> list[int]:
        """Return which of the next so many changes are traced, by index.

        What comes again, because a ring had no room for it, is drawn again: that changes no chance.
        """
        if self._to_pass >= count:
            self._to_pass -= count
            return []
        picked, index = [], self._to_pass
        while index < count:
            picked.append(index)
            index += 1 + self._draw()
        self._to_pass = index - count
        return picked
