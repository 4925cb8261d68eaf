"""One trial: a load against the whole path, every change's lag, what it took, and whether all of it arrived."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.drive.driver import Driver, Sent, drive
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import NS, Arrivals
from benchmarks.lag import check
from benchmarks.lag.check import Verdict
from benchmarks.lag.function import COLUMNS
from benchmarks.lag.histogram import Histogram, Percentiles, percentiles_of
from benchmarks.lag.probe import Probe
from benchmarks.lag.stages import NEVER, Clocks, Received, StageLag, lags_of, leaves_value, told
from benchmarks.lag.timeline import Moment, timeline
from benchmarks.stand.accounting import ENGINE_ROLES, Accounts, Meter
from benchmarks.stand.harness import Rig, rig, wait_until
from benchmarks.stand.sinks import Sink, SinkName, sink

During = Callable[[float], None]
"""Is told how many seconds a load has been sent for."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the engine is set up, and where it delivers to."""

    shards: int = 1
    invokers: int = 1
    batch_size: int = 1_000
    parallelization_factor: int = 2
    sink: SinkName = "stand-in"
    events: tuple[str, ...] = ("hset",)
    capture: str = ""
    """Lines of the section of that name."""


class Trial(msgspec.Struct, frozen=True):
    """What one trial showed.

    ``lag`` is from when a change was due to its request, received whole by the function (of the DynamoDB sink: to its
    write, answered), and ``histogram`` all of it, as HDR libraries read it; ``stages`` are on the way. ``missing``
    changes never arrived, nor a newer value of their key. ``moments`` is the lag over the time of the run.
    """

    wanted_per_s: float
    rate_per_s: float
    changes: int
    kept_schedule: bool
    sender_late: Percentiles
    lag: Percentiles
    stages: list[StageLag]
    missing: int
    verdict: Verdict
    accounts: Accounts
    records: int
    invocations: int
    payload_bytes: float
    """A change, to the function."""
    seed: int
    histogram: str = ""
    moments: list[Moment] = []

    @property
    def is_well(self) -> bool:
        """Tell whether every change arrived, and every key holds what Redis holds."""
        return not self.wrong

    @property
    def wrong(self) -> int:
        """Return how many keys or changes are lost, stale or invented."""
        return self.missing + self.verdict.lost + self.verdict.stale + self.verdict.invented

    @property
    def records_per_invocation(self) -> float:
        """Return the mean of the batches."""
        return self.records / self.invocations if self.invocations else 0.0

    @property
    def requests_per_million(self) -> float:
        """Return how many invocations a million such changes would take."""
        return self.invocations / max(1, self.changes) * 1_000_000

    @property
    def engine_cpu_us(self) -> float:
        """Return the CPU of all of the engine's processes, a change."""
        return self.accounts.cpu_us(*ENGINE_ROLES)


@dataclass
class Ground:
    """A running path, to make trials on."""

    rig: Rig
    shape: Shape
    sink: Sink

    def run(self, load: Load, during: During | None = None) -> Trial:
        """Send a load, wait until all is settled, and put together what was sent and what arrived.

        ``during`` is called again and again while it is sent, and at its end. Raise `SenderFailed`, `EngineEnded` or
        `NotReached`.
        """
        before, clocks = self.rig.totals(), Clocks.now()
        folder = Path(tempfile.mkdtemp(prefix="drive-", dir=self.rig.folder))
        meter = Meter(self.rig)
        with self._probing() as probe, Driver(self.rig.redis, load, folder) as driver:
            while not driver.is_over():
                if during is not None:
                    during((time.monotonic_ns() - driver.started_ns) / NS)
                time.sleep(0.05)
            sent = driver.join()
        if during is not None:
            during(max(load.seconds, sent.took_s))
        use = meter.use(sent.took_s)
        # What still waits has yet to be paid for.
        self._wait(lambda: not self._waiting(), "nothing waits any more")
        accounts = meter.accounts(sent, use)
        self.settle()
        seen = self._seen(sent, clocks, load.seconds) if probe is None else self._probed(sent, probe)
        return self._told(load, sent, seen, accounts, before)

    def _probing(self) -> AbstractContextManager[Probe | None]:
        if self.sink.is_probed and self.sink.table is not None:
            return Probe(self.rig.redis, self.sink.table.number)
        return nullcontext()

    def forget(self) -> None:
        """Drop what the trials so far left on disk; to be called between trials, when all is settled."""
        if self.sink.table is None:
            os.truncate(self.rig.journal, 0)
        for folder in self.rig.folder.glob("drive-*"):
            shutil.rmtree(folder)

    def settle(self, wait_s_max: float = 120.0) -> None:
        """Return when nothing waits any more, as two looks at the counters agree."""
        last: list[tuple[int, ...]] = [()]

        def is_settled() -> bool:
            totals = self.rig.totals()
            seen = (totals["events_read"], totals["records_delivered"])
            is_same, last[0] = seen == last[0], seen
            is_quiet = is_same and not self._waiting()
            if not is_quiet:
                time.sleep(1.05)
            return is_quiet

        self._wait(is_settled, "all is settled", wait_s_max)

    def _waiting(self) -> int:
        totals = self.rig.totals()
        return totals["keys_waiting"] + totals["keys_in_flight"] + totals["dirty_keys"] + totals["keys_backlog"]

    def _wait(self, condition: Callable[[], bool], what: str, wait_s_max: float = 120.0) -> None:
        def holds() -> bool:
            self.rig.check()
            return condition()

        wait_until(holds, what, wait_s_max)

    def _seen(self, sent: Sent, clocks: Clocks, seconds: float) -> _Seen:
        """Return what the function's journal or notes tell of this run."""
        everything = self.sink.received(self.rig, clocks)
        # Values by when they were due, deletes by when they came.
        is_delete = everything.column("number") == 0
        came = np.where(is_delete, everything.column("invoked_ns"), everything.column("due_ns"))
        received = Received(everything.rows[came >= sent.started_ns])
        lags = lags_of(sent, received, clocks)
        if self.sink.table is None:
            del lags["committed"]
        arrived = lags["invoked"] != NEVER
        missing = int(np.count_nonzero(~arrived))
        last, due = lags[self.sink.stage][arrived], sent.plan.offsets[leaves_value(sent.plan)][arrived]
        moments = timeline(due, last, seconds)
        return _Seen(Histogram.of(last), told(lags), missing, self._verdict(sent, received), moments)

    def _probed(self, sent: Sent, probe: Probe) -> _Seen:
        """Return what a probe saw: of AWS, the table alone is looked at."""
        lag = Histogram.of(probe.lags_ns)
        stages = [StageLag("acknowledged", percentiles_of(sent.answered_ns)), StageLag("committed", lag.percentiles())]
        nothing = Received(np.empty((0, len(COLUMNS)), np.int64))
        return _Seen(lag, stages, probe.missing, self._verdict(sent, nothing), [])

    def _told(self, load: Load, sent: Sent, seen: _Seen, accounts: Accounts, before: dict[str, int]) -> Trial:
        totals = self.rig.totals()
        return Trial(
            wanted_per_s=round(len(sent.plan) / load.seconds, 1),
            rate_per_s=round(sent.rate_per_s, 1),
            changes=len(sent.plan),
            kept_schedule=sent.kept_schedule,
            sender_late=percentiles_of(sent.late_ns),
            lag=seen.lag.percentiles(),
            stages=seen.stages,
            missing=seen.missing,
            verdict=seen.verdict,
            accounts=accounts,
            records=totals["records_delivered"] - before["records_delivered"],
            invocations=totals["invocations"] - before["invocations"],
            payload_bytes=round((totals["payload_bytes"] - before["payload_bytes"]) / max(1, len(sent.plan)), 1),
            seed=load.seed,
            histogram=seen.lag.encoded(),
            moments=seen.moments,
        )

    def _verdict(self, sent: Sent, received: Received) -> Verdict:
        truth = check.in_redis(self.rig.redis, sent.plan, sent.started_ns)
        if self.sink.table is None:
            held = check.arrived(received)
        else:
            held = {key: number for key, number in self.sink.table.numbers(sent.started_ns).items() if key in truth}
        return check.compare(truth, held, len(sent.plan))


class _Seen(NamedTuple):
    """What became of a load, by those who saw it arrive."""

    lag: Histogram
    stages: list[StageLag]
    missing: int
    verdict: Verdict
    moments: list[Moment]


def _rig(shape: Shape, more: str, **options: Any) -> AbstractContextManager[Rig]:
    return rig(
        shards=shape.shards,
        invokers=shape.invokers,
        batch_size=shape.batch_size,
        parallelization_factor=shape.parallelization_factor,
        more=more,
        capture=shape.capture,
        **options,
    )


@contextmanager
def ground(shape: Shape) -> Iterator[Ground]:
    """Run the whole path in this shape until the block ends; raise `ServerError` or `SinkError`."""
    more = f"events = {msgspec.json.encode(shape.events).decode()}\n"
    with sink(shape.sink) as end:
        is_stand_in = end.table is None
        options = {"journal_payloads": is_stand_in, "with_journal": is_stand_in, "aws_function": end.aws_function}
        with _rig(shape, more, function=end.function, **options) as running:
            yield _warmed(Ground(running, shape, end))


def _warmed(place: Ground) -> Ground:
    """Have connections made and modules imported, as they are after a second of any load."""
    load = Load(Arrivals(rate_per_s=1_000.0), Keyspace(1_000), seconds=1.0, seed=0)
    folder = Path(tempfile.mkdtemp(prefix="drive-", dir=place.rig.folder))
    drive(place.rig.redis, load, folder)
    place.settle()
    return place
