"""How reads of a destination continue while it is slow or refuses: more slowly, with retries, until that takes too
long.

All threads that read share one: when one of them is refused, all slow down.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

DELAY_S_MIN, DELAY_S_MAX = 0.05, 5.0
_RECOVERY = 0.8
"""The factor by which an answered read shortens the delay: about ten of them undo one unanswered read."""


class Patience:
    """Delays reads while they fail; thread-safe."""

    def __init__(
        self,
        trouble_s_max: float,
        *,
        tell: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Give up once nothing was answered for ``trouble_s_max``; ``tell`` is called with every wait."""
        self._trouble_s_max = trouble_s_max
        self._tell, self._sleep, self._clock = tell, sleep, clock
        self._lock = threading.Lock()
        self._delay_s = 0.0
        self._began_s: float | None = None
        self._waited_s = 0.0

    def pause(self) -> None:
        """Wait before a read, for as long as the failures so far require."""
        with self._lock:
            wait_s = self._delay_s * (1 + random.random()) / 2
            self._waited_s += wait_s
        if wait_s:
            self._sleep(wait_s)

    def answered(self) -> None:
        """Note a read that was answered."""
        with self._lock:
            self._began_s = None
            self._delay_s *= _RECOVERY
            if self._delay_s < DELAY_S_MIN:
                self._delay_s = 0.0

    def is_left(self, began_s: float, why: str) -> bool:
        """Note a read that began at that time and was not answered; tell whether it should be retried."""
        with self._lock:
            if self._began_s is None:
                self._began_s, self._waited_s = began_s, 0.0
            self._delay_s = min(DELAY_S_MAX, max(DELAY_S_MIN, 2 * self._delay_s))
            trouble_s = max(self._clock() - self._began_s, self._waited_s)
            delay_s = self._delay_s
        if trouble_s >= self._trouble_s_max:
            return False
        self._tell(f"{why}; slowing down, retrying in {delay_s:.1f} s")
        return True

    def now_s(self) -> float:
        """Return the moment, for `is_left`."""
        return self._clock()
