"""What the engine costs those beside it: the application's own latency, and the memory of keys that wait."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil

from benchmarks.drive.commands import PREFIX
from benchmarks.drive.driver import drive
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.lag.histogram import percentiles_of
from benchmarks.stand.accounting import own_memory, title_of
from benchmarks.stand.cores import Halves, NotApart, halves, keep_on, ourselves_on
from benchmarks.stand.harness import Rig, rig, wait_until
from benchmarks.stand.load import Where, hset_distinct
from benchmarks.stand.servers import without_notifications
from engine.sandbox.valkey import ValkeyServer

WARM_UP = 2_000
KEYS_MIN = 10_000
NAME_BYTES = len(PREFIX) + 7
"""Of the keys that wait: what they take has it in."""


class HsetRatio(msgspec.Struct, frozen=True):
    """The application's HSET p99 with the engine beside it, and without, in ms; a ratio for each pair.

    Where it could not be measured there is a ``problem`` instead.
    """

    with_ms: list[float] = []
    without_ms: list[float] = []
    problem: str = ""

    @property
    def ratios(self) -> list[float]:
        """Return with / without, pair by pair."""
        return [one / other for one, other in zip(self.with_ms, self.without_ms, strict=True)]


def measure_hset_ratio_apart(pairs: int, seconds: float, rate_per_s: float, seed: int) -> HsetRatio:
    """Measure with server and load on some cores, engine and function on the others: as on a host for each."""
    try:
        return measure_hset_ratio(pairs, seconds, rate_per_s, seed, halves())
    except NotApart as error:
        return HsetRatio(problem=str(error))


def measure_hset_ratio(
    pairs: int, seconds: float, rate_per_s: float, seed: int, apart: Halves | None = None
) -> HsetRatio:
    """Send the same load to a server that the engine watches, and to one that nobody watches, in turn.

    Of a server that is not ours there is no second one: the engine is stopped for the second half.
    """
    found: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as stack:
        watched = stack.enter_context(rig(with_journal=False))
        alone: Where = watched.redis
        if watched.server_pid:
            unwatched = stack.enter_context(ValkeyServer())
            alone = unwatched.port
            if apart is not None:
                keep_on(apart.near, watched.server_pid, unwatched.pid)
        if apart is not None:
            keep_on(apart.far, watched.engine.pid, watched.runtime_pid)
            stack.enter_context(ourselves_on(apart.near))

        def measure(pair: int, *, is_watched: bool) -> None:
            load = Load(Arrivals("poisson", rate_per_s=rate_per_s), Keyspace(10_000), seconds=seconds, seed=seed + pair)
            folder = Path(tempfile.mkdtemp(prefix="drive-", dir=watched.folder))
            sent = drive(watched.redis if is_watched else alone, load, folder)
            found[is_watched].append(percentiles_of(sent.answered_ns).p99_ms)
            time.sleep(0.2)

        if watched.server_pid:
            for pair in range(pairs):
                # Who is first changes: what a machine does in the meantime is then no one's advantage.
                for is_watched in (pair % 2 == 0, pair % 2 == 1):
                    measure(pair, is_watched=is_watched)
        else:
            for pair in range(pairs):
                measure(pair, is_watched=True)
            watched.stop()
            with without_notifications(watched.redis):
                for pair in range(pairs):
                    measure(pair, is_watched=False)
    return HsetRatio(found[True], found[False])


class WaitingMemory(msgspec.Struct, frozen=True):
    """Bytes that a key takes while it waits: in a subscriber's dirty set, and in an invoker's lane."""

    subscriber_bytes: float
    invoker_bytes: float
    subscriber_keys: int
    invoker_keys: int


def measure_waiting_memory(keys: int) -> WaitingMemory:
    """Stop the function, change distinct keys until lane and rings are full, and see what the processes grew by.

    Bytes are 0 where fewer than `KEYS_MIN` keys wait: a process grows by more than they take.
    """
    with rig(with_journal=False) as bench:
        children = psutil.Process(bench.engine.pid).children()
        titles = {one.pid: title_of(one) for one in children}
        pids = {role: next(pid for pid, title in titles.items() if role in title) for role in ("subscriber", "invoker")}
        # Few: what they leave free would be taken by those that are counted.
        hset_distinct(bench.redis, WARM_UP, prefix=f"{PREFIX}warm")
        bench.wait("records_delivered", WARM_UP)
        wait_until(lambda: bench.totals()["keys_in_flight"] == 0, "nothing is in flight")
        before = {role: own_memory(pid) for role, pid in pids.items()}
        os.kill(bench.runtime_pid, signal.SIGSTOP)
        try:
            hset_distinct(bench.redis, keys, prefix=PREFIX.rstrip(":"))
            _until_still(bench)
            totals = bench.totals()
            grown = {role: own_memory(pid) - before[role] for role, pid in pids.items()}
        finally:
            os.kill(bench.runtime_pid, signal.SIGCONT)
    waiting = totals["keys_waiting"] + totals["keys_in_flight"]
    dirty = totals["dirty_keys"]
    return WaitingMemory(_each(grown["subscriber"], dirty), _each(grown["invoker"], waiting), dirty, waiting)


def _each(grown_bytes: int, keys: int) -> float:
    return round(grown_bytes / keys, 1) if keys >= KEYS_MIN else 0.0


def _until_still(bench: Rig) -> None:
    """Return when everything that was sent waits somewhere."""
    seen: list[tuple[int, int, int]] = []
    wait_until(lambda: _look(bench, seen), "the keys wait")


def _look(bench: Rig, seen: list[tuple[int, int, int]]) -> bool:
    totals = bench.totals()
    seen.append((totals["events_read"], totals["dirty_keys"], totals["keys_waiting"]))
    time.sleep(1.1)
    return len(seen) >= 2 and seen[-1] == seen[-2]
