"""One trial: a load against the whole path, every change's lag, what it took, and whether all of it arrived."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from benchmarks.accounting import Accounts, Meter
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.schedule import Arrivals
from benchmarks.drive.sender import Driver, Load, Sent, drive
from benchmarks.harness import Rig, rig, wait_until
from benchmarks.lag import check
from benchmarks.lag.check import Verdict
from benchmarks.lag.histogram import Percentiles, percentiles_of
from benchmarks.lag.stages import NEVER, Clocks, Received, StageLag, lags_of, read_journal, read_notes, told
from engine.sandbox.aws import sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.lambda_spec import FunctionSpec

TABLE = "bench"
Sink = Literal["stand-in", "dynamodb"]


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the engine is set up, and where it delivers to."""

    shards: int = 1
    invokers: int = 1
    batch_size: int = 1_000
    parallelization_factor: int = 2
    sink: Sink = "stand-in"
    events: tuple[str, ...] = ("hset",)


class Trial(msgspec.Struct, frozen=True):
    """What one trial showed.

    ``lag`` is from when a change was due to its request, received whole by the function (of the DynamoDB sink: to its
    write, answered); ``stages`` are on the way. ``missing`` changes never arrived, nor a newer value of their key.
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
    seed: int

    @property
    def records_per_invocation(self) -> float:
        """Return the mean of the batches."""
        return self.records / self.invocations if self.invocations else 0.0


@dataclass
class Ground:
    """A running path, to make trials on."""

    rig: Rig
    shape: Shape
    table: DynamoDbServer | None

    def run(self, load: Load, during: Callable[[], None] | None = None) -> Trial:
        """Send a load, wait until all is settled, and put together what was sent and what arrived.

        ``during`` is called again and again while it is sent.
        """
        before, clocks = self.rig.totals(), Clocks.now()
        folder = Path(tempfile.mkdtemp(prefix="drive-", dir=self.rig.folder))
        meter = Meter(self.rig)
        driver = Driver(self.rig.redis_port, load, folder)
        while not driver.is_over():
            if during is not None:
                during()
            time.sleep(0.05)
        sent = driver.join()
        accounts_at_end = meter.accounts(max(1, len(sent.plan)), sent.took_s)
        self.settle()
        totals = self.rig.totals()
        return self._told(load, sent, clocks, accounts_at_end, before, totals)

    def forget(self) -> None:
        """Drop what the trials so far left on disk; to be called between trials, when all is settled."""
        if self.table is None:
            os.truncate(self.rig.journal, 0)
        for folder in self.rig.folder.glob("drive-*"):
            shutil.rmtree(folder)

    def settle(self, wait_s_max: float = 120.0) -> None:
        """Return when nothing waits any more, as two looks at the counters agree."""
        last: list[tuple[int, ...]] = [()]

        def is_settled() -> bool:
            totals = self.rig.totals()
            waiting = totals["keys_waiting"] + totals["keys_in_flight"] + totals["dirty_keys"] + totals["keys_backlog"]
            seen = (totals["events_read"], totals["records_delivered"])
            is_same, last[0] = seen == last[0], seen
            if waiting or not is_same:
                time.sleep(1.05)
            return is_same and not waiting

        wait_until(is_settled, "all is settled", wait_s_max)

    def _told(
        self,
        load: Load,
        sent: Sent,
        clocks: Clocks,
        accounts: Accounts,
        before: dict[str, int],
        totals: dict[str, int],
    ) -> Trial:
        received = self._received(clocks, sent.started_ns)
        lags = lags_of(sent, received, clocks)
        stage = "invoked" if self.table is None else "committed"
        if self.table is None:
            del lags["committed"]
        arrived = lags["invoked"] != NEVER
        return Trial(
            wanted_per_s=round(len(sent.plan) / load.seconds, 1),
            rate_per_s=round(sent.rate_per_s, 1),
            changes=len(sent.plan),
            kept_schedule=sent.kept_schedule,
            sender_late=percentiles_of(sent.late_ns),
            lag=percentiles_of(lags[stage][arrived]),
            stages=told(lags),
            missing=int(np.count_nonzero(~arrived)),
            verdict=self._verdict(sent, received),
            accounts=accounts,
            records=totals["records_delivered"] - before["records_delivered"],
            invocations=totals["invocations"] - before["invocations"],
            seed=load.seed,
        )

    def _received(self, clocks: Clocks, since_ns: int) -> Received:
        """Return what has arrived of this run, values by when they were due and deletes by when they came."""
        if self.table is not None:
            everything = read_notes(self.rig.folder)
        else:
            everything = read_journal(self.rig.journal, clocks)
        is_delete = everything.column("number") == 0
        came = np.where(is_delete, everything.column("invoked_ns"), everything.column("due_ns"))
        return Received(everything.rows[came >= since_ns])

    def _verdict(self, sent: Sent, received: Received) -> Verdict:
        truth = check.in_redis(self.rig.redis_port, sent.plan, sent.started_ns)
        if self.table is not None:
            environment = sandbox_environment(dynamodb_endpoint=self.table.endpoint)
            held = check.in_table(
                self.table.endpoint,
                environment["AWS_DEFAULT_REGION"],
                TABLE,
                {
                    "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
                    "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
                },
            )
            held = {key: number for key, number in held.items() if key in truth}
        else:
            held = check.arrived(received)
        return check.compare(truth, held, len(sent.plan))


def _rig(shape: Shape, more: str, **options: Any) -> AbstractContextManager[Rig]:
    return rig(
        shards=shape.shards,
        invokers=shape.invokers,
        batch_size=shape.batch_size,
        parallelization_factor=shape.parallelization_factor,
        more=more,
        **options,
    )


@contextmanager
def ground(shape: Shape) -> Iterator[Ground]:
    """Run the whole path in this shape until the block ends."""
    more = f"events = {msgspec.json.encode(shape.events).decode()}\n"
    if shape.sink == "stand-in":
        with _rig(shape, more, journal_payloads=True) as running:
            yield _warmed(Ground(running, shape, None))
        return
    with DynamoDbServer() as table:
        table.create_table(TABLE)

        def function(folder: Path) -> FunctionSpec:
            environment = {
                **sandbox_environment(dynamodb_endpoint=table.endpoint),
                "DYNAMO_TABLE": TABLE,
                "NOTES": str(folder),
            }
            return FunctionSpec("accept", "benchmarks.lag.function:store", concurrency_max=4, environment=environment)

        with _rig(shape, more, with_journal=False, function=function) as running:
            yield _warmed(Ground(running, shape, table))


def _warmed(place: Ground) -> Ground:
    """Have connections made and modules imported, as they are after a second of any load."""
    load = Load(Arrivals(rate_per_s=1_000.0), Keyspace(1_000), seconds=1.0, seed=0)
    folder = Path(tempfile.mkdtemp(prefix="drive-", dir=place.rig.folder))
    drive(place.rig.redis_port, load, folder)
    place.settle()
    return place
