"""What it costs to be watched: lags counted, the status, a scrape of Prometheus's, a second of an open page.

CPU alone, in one process, the least of some rounds, so that a busy machine moves it little. The share is of what the
engine takes for `RATE_PER_S` changes, by a figure that `make bench` gives for the machine at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from engine.config import RouteSettings, SupervisionSettings
from engine.console.prometheus import exposition
from engine.console.view import encoded, history_of, live_view
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Batch, Cause
from engine.observe.history import KEPT, History
from engine.observe.timeline import Timeline
from engine.ring.counters import Board, ChildState
from engine.ring.lags import Stage
from engine.routing.routes import RouteTable
from engine.supervision.children import Children, Phase
from engine.supervision.report import describe

RATE_PER_S = 25_000
BATCH, MOMENTS = 500, 20
"""At that rate a full batch spans 20 ms, and a moment of capture is a millisecond."""
SCRAPE_S = 15.0
ROUNDS = 9
NOW_MS = 1_800_000_000_000


class Watching(msgspec.Struct, frozen=True):
    """CPU: ns for each key of a full batch, in all its stages; µs of the supervisor's each second; µs a scrape, and a
    second of an open page.
    """

    count_ns_per_key: float
    status_us: float
    scrape_us: float
    page_us: float

    def share(self, engine_us_per_change: float, *, pages: int) -> float:
        """Return the share of the engine's own CPU at `RATE_PER_S`, with so many pages open."""
        each_second_us = self.status_us + self.scrape_us / SCRAPE_S + pages * self.page_us
        return (self.count_ns_per_key / 1_000 + each_second_us / RATE_PER_S) / engine_us_per_change


def measure_watching() -> Watching:
    """Return what each part takes."""
    board, status = _status()
    history, timeline, seconds = History(0), Timeline(), iter(range(0, 10**12, 1_000))

    def report() -> None:
        second = next(seconds)
        said = history.describe(board.rows, second, NOW_MS + second)
        timeline.take_in(status["children"], NOW_MS + second)
        msgspec.json.encode(said)

    told = history_of(status)

    def page() -> None:
        encoded(live_view(status, (), NOW_MS))
        assert history_of(status) == told

    return Watching(
        count_ns_per_key=_counting_ns(),
        status_us=_least_us(report, 100),
        scrape_us=_least_us(lambda: exposition(status, (), 1, ""), 20),
        page_us=_least_us(page, 50),
    )


def _counting_ns() -> float:
    frame, row = Frame(1), Board(1).row(0)
    causes = [Cause("hset", NOW_MS + moment, frame) for moment in range(MOMENTS)]
    batch = Batch([(b"cart:%d" % number, causes[number * MOMENTS // BATCH]) for number in range(BATCH)])

    def count() -> None:
        fresh = batch.part(batch.entries)
        for stage in (Stage.FETCHED, Stage.INVOKED, Stage.SETTLED):
            row.lags.record_all(stage, NOW_MS + 100, fresh.moments())

    return _least_us(count, 300) / BATCH * 1_000


def _status() -> tuple[Board, dict[str, Any]]:
    """Return a status of two subscribers and an invoker, with lags of all lengths, and an hour behind it."""
    board = Board(3)
    children = Children(2, 1, SupervisionSettings(), lambda: 0.5, 0)
    children.phase = Phase.READY
    for child, row in zip(children.all, board.rows, strict=True):
        child.pid = 1
        row.set_state(ChildState.READY)
        for stage in (Stage.CAPTURED,) if child in children.subscribers else tuple(Stage)[1:]:
            for lag_ms in range(0, 4_000, 3):
                row.lags.record(stage, lag_ms, 5)
    table = RouteTable.build((RouteSettings("carts", "dynamodb"),), None)
    described = describe(children, board.rows, table, part="0/1", snapshots={}, unix_ms=NOW_MS, moment_ms=0)
    said = History(0).describe(board.rows, 1_000, NOW_MS)
    lags = {"settled": said["last_minute"]["lag_ms"]["settled"]}
    minute = {"at_ms": NOW_MS, "seconds": 60.0, "counts": dict.fromkeys(KEPT, 1), "lag_ms": lags}
    about = {"version": "1", "pid": 1, "started_at_ms": 1, "settled_until_ms": NOW_MS, "nodes": [], "timeline": []}
    whole = {**described, **said, **about, "minutes": [minute] * 60}
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))
    return board, decoded


def _least_us(act: Callable[[], object], times: int) -> float:
    """Return the µs of CPU that it takes, in the round that took least."""
    found = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            act()
        found.append((time.process_time() - started) / times * 1e6)
    return min(found)


@click.command()
@click.option("--engine-us", default=6.0, show_default=True, help="CPU of the engine's processes for a change, in µs.")
def main(engine_us: float) -> None:
    """Print what it costs to be watched."""
    found = measure_watching()
    print(f"lags counted: {found.count_ns_per_key:.0f} ns a key, in batches of {BATCH}")
    print(f"lags, rates and time line in the status: {found.status_us:.0f} µs a second")
    print(f"a scrape: {found.scrape_us:.0f} µs; a second of an open page: {found.page_us:.0f} µs")
    for pages in (0, 1):
        share = found.share(engine_us, pages=pages)
        scraped = f"scraped each {SCRAPE_S:.0f} s, {pages} pages open"
        print(f"of the engine's CPU at {RATE_PER_S:,} changes/s, {scraped}: {share:.2%}")


if __name__ == "__main__":
    main()
