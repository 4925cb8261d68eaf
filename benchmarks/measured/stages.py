"""A key's way through the engine's own code, stage by stage: CPU a key, from the parser's events to settled.

One process does what a subscriber and an invoker do, with one ring between them and a server to read from; there is no
function, and no loop that waits. So it shows where the time of full batches goes, and moves less than a running engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import hiredis

from benchmarks.measured.parse import beside_yardstick
from benchmarks.stand.load import hset_distinct
from engine.capture.dirty import DirtyKeys, interests
from engine.capture.flush import Flusher
from engine.config import RedisSettings, RingSettings, RouteSettings
from engine.delivery.intake import Intake
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import Frame
from engine.delivery.reading.fetch import Fetcher
from engine.model import Run
from engine.ring.counters import Board
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer

KEYS, BATCH, EVENTS_A_READ = 100_000, 1_000, 5_000
STAGES = ("hear", "flush", "take_in", "batch", "read", "payload", "settle")
_EVENT = b"*4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@0__:*\r\n$27\r\n__keyspace@0__:cart:%07d\r\n$4\r\nhset\r\n"
_PREFIX_BYTES = len(b"__keyspace@0__:")


class _Watch:
    """CPU by stage."""

    def __init__(self) -> None:
        self.took_s = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.took_s[stage] += time.process_time() - started


class _Way:
    """What a key goes through."""

    def __init__(self, url: str) -> None:
        route = RouteSettings("bench", "f", batch_size=BATCH)
        table = RouteTable.build([route])
        ring, row, wake = RingSet(1, 1, 1 << 25).ring(0, 0), Board(1).row(0), Wake()
        self.interests = interests(table)
        self.dirty = DirtyKeys(
            prefix_bytes=_PREFIX_BYTES, invokers=1, keys_max=500_000, key_bytes_max=1_000_000, mapping_prefix=b""
        )
        self.flusher = Flusher([ring.writer()], [wake], RingSettings(), row)
        self.intake = Intake([ring.reader()], [(0,)], lambda _shard, _since: None)
        self.lane = Lane(BATCH, 0, 1)
        self.fetcher = Fetcher(RedisSettings(url=url), 0, "bench")
        self.builder = PayloadBuilder(route, 0, 6_000_000)

    def go(self, watch: _Watch, first: int, count: int) -> None:
        """Take so many keys all the way."""
        lane, reader = self.lane, hiredis.Reader()
        for start in range(first, first + count, EVENTS_A_READ):
            events = b"".join([_EVENT % number for number in range(start, start + EVENTS_A_READ)])
            with watch.of("hear"):
                reader.feed(events)
                self.dirty.take_in(reader.gets, self.interests, 1_763_890_000_123 + start)
            with watch.of("flush"):
                assert self.flusher.flush(self.dirty)
        with watch.of("take_in"):
            while self.intake.read(self._distribute):
                pass
        settled = 0
        while settled < count:
            with watch.of("batch"):
                batch = lane.take(2)
                assert batch is not None
                keys = [(key, cause.event) for key, cause in batch.entries]
            with watch.of("read"):
                values = self.fetcher.fetch(keys)
            with watch.of("payload"):
                built = self.builder.build(batch.entries, values)
            with watch.of("settle"):
                lane.settle(built.sent)
                self.intake.release()
            settled += len(built.sent)
        assert lane.is_idle()

    def _distribute(self, runs: list[Run], frame: Frame, _is_fenced: bool) -> None:
        self.lane.add(runs, frame, 1)


def measure_stages(keys: int = KEYS, rounds: int = 3) -> dict[str, float]:
    """Return the µs of CPU a key by stage, the least of some rounds each; ``y`` is the yardstick beside them."""
    with ValkeyServer() as server:
        hset_distinct(server.port, keys, "cart")
        way = _Way(server.url)
        way.go(_Watch(), 0, EVENTS_A_READ)
        yardsticks: list[float] = []
        watches = [_Watch() for _ in range(rounds)]
        for watch in watches:
            beside_yardstick(lambda watch=watch: way.go(watch, 0, keys), yardsticks)  # type: ignore[misc]
        way.fetcher.close()
    least = {stage: min(watch.took_s[stage] for watch in watches) / keys * 1e6 for stage in STAGES}
    return {**least, "y": min(yardsticks)}


if __name__ == "__main__":
    took = measure_stages()
    yardstick = took.pop("y")
    for stage, us in took.items():
        print(f"{stage:8} {us:6.3f} µs  {us / yardstick:6.2f} y")
    own = sum(took[stage] for stage in STAGES[2:])
    print(f"frame to settled {own:.2f} µs, {own / yardstick:.2f} y; all {sum(took.values()) / yardstick:.2f} y")
