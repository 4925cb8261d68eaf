"""The subscriber alone: CPU an event from the socket into the ring, under all the load that one server makes."""

from __future__ import annotations

import multiprocessing
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import hiredis
import psutil

from benchmarks.stand.harness import wait_until
from benchmarks.stand.load import connect, info, read_replies
from engine.capture.preflight import prepare_capture
from engine.capture.subscriber import SubscriberSpec, run_subscriber
from engine.config import CaptureSettings, RedisSettings, RingSettings, RouteSettings, Settings
from engine.lifecycle import Channel, ChildLink, channel_pair
from engine.redis.connection import pack
from engine.ring.counters import Board, ChildState, Counter, StatusRow
from engine.ring.heard import HeardTable
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer

KEYS = 100_000
PIPELINE = 200
WARM_UP_S = 0.5
_SUMMED = (
    Counter.EVENTS_READ,
    Counter.EVENTS_COALESCED,
    Counter.CHANGES_WRITTEN,
    Counter.FRAMES_WRITTEN,
    Counter.RING_FULL,
    Counter.GAPS,
)
_fork = multiprocessing.get_context("fork")


def _load(port: int) -> None:
    """Set the same hashes over and over, as fast as they are accepted, until killed."""
    batches = [
        b"".join(
            pack("HSET", f"cart:{number:07d}", "item", "tea", "count", "3") for number in range(first, first + PIPELINE)
        )
        for first in range(0, KEYS, PIPELINE)
    ]
    sock, reader = connect(port), hiredis.Reader()
    while True:
        for batch in batches:
            sock.sendall(batch)
            read_replies(sock, reader, PIPELINE)


def _read(rings: RingSet, wake: Wake) -> None:
    """Be an invoker that settles everything at once, until killed."""
    reader = rings.ring(0, 0).reader()
    poller = select.poll()
    poller.register(wake.fileno(), select.POLLIN)
    while True:
        poller.poll()
        wake.clear()
        while (frame := reader.read()) is not None:
            reader.release(frame[1])


@contextmanager
def _running(target: Any, *args: object) -> Iterator[BaseProcess]:
    process = _fork.Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _subscribe(spec: SubscriberSpec, ours: Channel, link: ChildLink) -> None:
    ours.close()
    raise SystemExit(run_subscriber(spec, link))


def _spec(server: ValkeyServer, rings: RingSet, wake: Wake) -> SubscriberSpec:
    table = RouteTable.build([RouteSettings(name="all", function="f")])
    redis = RedisSettings(url=server.url)
    settings = Settings(redis=redis, capture=CaptureSettings(shards=1))
    ((feed,),) = prepare_capture(settings, table).feeds
    return SubscriberSpec(
        shard=0,
        feeds=(feed,),
        redis=redis,
        capture=settings.capture,
        ring=RingSettings(),
        table=table,
        database=0,
        mapping_prefix="",
        writers=[rings.ring(0, 0).writer()],
        wakes=[wake],
        heard_row=HeardTable(1).row(0),
    )


def _lost(port: int, row: StatusRow) -> int:
    """Return how many of all changes that the server made the subscriber has not read an event of, once none comes."""
    seen = [-1]

    def is_still() -> bool:
        before, seen[0] = seen[0], row.get(Counter.EVENTS_READ)
        time.sleep(0.1)
        return seen[0] == before

    wait_until(is_still, "the last event is read", 30.0)
    made = int(info(port, "commandstats")["cmdstat_hset"].split(",")[0].removeprefix("calls="))
    return made - seen[0]


def measure_capture(seconds: float = 3.0) -> dict[str, float]:
    """Return the subscriber's CPU an event (``cpu_us_per_event``), and what went through it in this time."""
    rings, wake, board = RingSet(1, 1, RingSettings().ring_bytes), Wake(), Board(1)
    ours, theirs = channel_pair()
    row = board.row(0)
    with (
        ValkeyServer() as server,
        _running(_read, rings, wake),
        _running(_subscribe, _spec(server, rings, wake), ours, ChildLink(theirs, row)) as subscriber,
    ):
        theirs.close()
        wait_until(lambda: row.state is ChildState.READY, "the subscriber is ready", 10.0)
        with _running(_load, server.port):
            wait_until(lambda: row.get(Counter.EVENTS_READ) >= KEYS, "the load runs", 30.0)
            time.sleep(WARM_UP_S)
            assert subscriber.pid is not None
            process = psutil.Process(subscriber.pid)
            counted = {counter: row.get(counter) for counter in _SUMMED}
            redis = psutil.Process(server.pid)
            cpu, server_cpu, started = process.cpu_times(), redis.cpu_times(), time.perf_counter()
            time.sleep(seconds)
            cpu_now, server_now, elapsed_s = process.cpu_times(), redis.cpu_times(), time.perf_counter() - started
            counted = {counter: row.get(counter) - before for counter, before in counted.items()}
        lost = _lost(server.port, row)
    ours.close()
    wake.close()
    server_s = server_now.user + server_now.system - server_cpu.user - server_cpu.system
    used_s = cpu_now.user + cpu_now.system - cpu.user - cpu.system
    events = counted[Counter.EVENTS_READ]
    assert events, "no events came"
    return {
        "cpu_us_per_event": used_s / events * 1e6,
        "server_us_per_event": server_s / events * 1e6,
        "user_us_per_event": (cpu_now.user - cpu.user) / events * 1e6,
        "events_per_s": events / elapsed_s,
        "cpu_share": used_s / elapsed_s,
        "coalesced_share": counted[Counter.EVENTS_COALESCED] / events,
        "changes_per_frame": counted[Counter.CHANGES_WRITTEN] / max(1, counted[Counter.FRAMES_WRITTEN]),
        "ring_full": counted[Counter.RING_FULL],
        "gaps": counted[Counter.GAPS],
        "lost": lost,
    }


if __name__ == "__main__":
    for name, value in measure_capture().items():
        print(f"{name:>18} {value:,.3f}")
