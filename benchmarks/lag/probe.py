"""Lag as one who looks sees it: a key is set, and its item read until it is there.

For functions that note nothing, in AWS. A look takes a while itself, so that a lag seen is at most one look too long.
One probe waits for the one before, so that a stall would be a single long lag: those that would have been sent in the
meantime are added, each shorter by the usual time from one to the next (Tene's correction for coordinated omission).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import hiredis
import numpy as np

from benchmarks.drive.commands import DUE_FIELD, NUMBER_FIELD, key_name
from benchmarks.lag.stages import Times
from benchmarks.stand.load import Where, connect, read_replies
from engine.redis.connection import pack

FIRST_KEY = 800_000_000
"""The numbers of the probe's keys: no load's keys have them."""
KEYS = 1_000
PAUSE_S = 0.02
LOOK_S = 0.001
WAIT_S_MAX = 60.0


def corrected(lags_ns: Times, pause_ns: int) -> Times:
    """Return lags with those added that nobody saw because one probe waits for another."""
    if not len(lags_ns):
        return lags_ns
    usual_ns = pause_ns + int(np.median(lags_ns))
    unseen = [np.arange(lag - usual_ns, 0, -usual_ns) for lag in lags_ns[lags_ns > usual_ns]]
    return np.concatenate([lags_ns, *unseen])


class Probe:
    """Sets a key, waits until it is seen, and again, until the block ends; then ``lags_ns`` and ``missing`` tell."""

    def __init__(self, where: Where, look: Callable[[int], int]) -> None:
        self.missing = 0
        self.lags_ns: Times = np.zeros(0, np.int64)
        self._sock = connect(where)
        self._reader = hiredis.Reader()
        self._look = look
        self._lags: list[int] = []
        self._failure: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._sock.close()
        self.lags_ns = corrected(np.array(self._lags, np.int64), int(PAUSE_S * 1e9))
        if self._failure is not None and kind is None:
            raise self._failure

    def _run(self) -> None:
        # Of the time: what an earlier run left in the table is no arrival of this one.
        number = time.time_ns() // 10_000_000
        try:
            while not self._is_over.wait(PAUSE_S):
                number += 1
                self._once(number)
        except Exception as error:  # told to the thread that waits for this one
            self._failure = error

    def _once(self, number: int) -> None:
        key, due_ns = FIRST_KEY + number % KEYS, time.monotonic_ns()
        self._sock.sendall(pack("HSET", key_name(key), NUMBER_FIELD, number, DUE_FIELD, due_ns))
        read_replies(self._sock, self._reader, 1)
        while self._look(key) != number:
            if time.monotonic_ns() - due_ns > WAIT_S_MAX * 1e9:
                self.missing += 1
                break
            time.sleep(LOOK_S)
        self._lags.append(time.monotonic_ns() - due_ns)
