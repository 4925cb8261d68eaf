"""Gaps that keep coming, or come again before the one before them is dealt with, on real subscribers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine.capture.feed.listener import PING_MS
from engine.config import RouteSettings
from engine.lifecycle import Compared, CompareWanted
from engine.model import Missed
from engine.ring.counters import Counter
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import Capture, capture, route, server_socket, wait_for
from tests.servers import every_server

EVERY_S = 0.7
COMPARED = msgspec.structs.replace(route("set", "del"), destination="dynamodb://table")


@contextmanager
def repeated(act: Callable[[], Any]) -> Iterator[None]:
    """Do something again and again beside the block."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(EVERY_S):
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def heard_past_now(running: Capture, client: Any) -> Callable[[], bool]:
    """Return what tells whether the watermark has passed this moment of the server's clock."""
    seconds, micros = client.time()
    moment_ms = seconds * 1_000 + micros // 1_000
    return lambda: running.heard_until().since_ms > moment_ms


@every_server
def test_a_gap_at_every_look_puts_nothing_off(server_binary: Path) -> None:
    """While each look finds the keyspace flushed, repairs begin and end, and the watermark follows."""
    with ValkeyServer(binary=server_binary) as server, capture(server, route("set")) as (running, client):
        wait_for(heard_past_now(running, client), "the first watermark")
        with repeated(client.flushdb):
            wait_for(lambda: running.count(Counter.GAPS) >= 3, "gaps come again and again")
            repairs = running.count(Counter.REPAIRS)
            is_past = heard_past_now(running, client)
            wait_for(lambda: running.count(Counter.REPAIRS) > repairs, "repairs come to their end")
            wait_for(is_past, "the watermark follows")


@every_server
def test_flushes_of_another_database_are_not_ours(server_binary: Path) -> None:
    """They are no gap, however many there are; SWAPDB and a flush of ours among them are, and each is found."""
    with ValkeyServer(binary=server_binary) as server, capture(server, route("set")) as (running, client):
        client.mset({f"key:{number}": 1 for number in range(1_000)})
        other = redis.Redis(unix_socket_path=server_socket(server), db=3)
        wait_for(heard_past_now(running, client), "the first watermark")
        for how in (False, True, False, True):
            other.set("theirs", 1)
            other.flushdb(asynchronous=how)
            client.set("key:1", 2)
            wait_for(heard_past_now(running, client), "the watermark has passed the flush")
        assert running.count(Counter.GAPS) == 0
        client.swapdb(4, 5)
        wait_for(lambda: running.count(Counter.GAPS) == 1, "what a swap swaps is not known")
        wait_for(heard_past_now(running, client), "the watermark follows")
        other.flushdb()
        client.flushdb()
        other.flushdb()
        wait_for(lambda: running.count(Counter.GAPS) == 2, "the flush of ours is found")
        other.close()


class Comparer(threading.Thread):
    """Fulfils each wish for a comparison a second after it was told."""

    def __init__(self, running: Capture) -> None:
        super().__init__(daemon=True)
        self._running = running
        self.fulfilled = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.02):
            wishes = [message.number for message in self._running.heard() if isinstance(message, CompareWanted)]
            if wishes:
                time.sleep(1.0)
                self._running.send(Compared(wishes[-1]))
                self.fulfilled += 1


def test_wishes_at_every_look_put_nothing_off() -> None:
    """The same with a destination: each comparison pays the gaps before it, whatever has come since."""
    with ValkeyServer() as server, capture(server, COMPARED) as (running, client):
        comparer = Comparer(running)
        comparer.start()
        try:
            with repeated(client.flushdb):
                wait_for(lambda: comparer.fulfilled >= 2, "comparisons are asked for again and again")
                wait_for(heard_past_now(running, client), "the watermark follows")
        finally:
            comparer.is_over.set()
            comparer.join()


def is_compared(running: Capture) -> bool:
    return any(isinstance(message, CompareWanted) for message in running.heard())


@pytest.mark.parametrize("is_first_start", [True, False])
@pytest.mark.parametrize("is_first_look_taken", [True, False])
def test_what_is_known_of_a_gap_is_kept(
    is_first_start: bool, is_first_look_taken: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """A connection that is cut while what a restart missed is still looked for, or compared, costs its own gap."""
    with ValkeyServer() as server:
        heard = Missed(int(time.time() * 1_000))
        missed = () if is_first_start else (heard,)
        with capture(server, COMPARED, missed=missed, heard=heard) as (running, client):
            if is_first_look_taken and not is_first_start:
                wait_for(lambda: is_compared(running), "a comparison is asked for, which nobody does")
            elif is_first_look_taken:
                wait_for(heard_past_now(running, client), "a watermark")
            client.client_kill_filter(_type="pubsub")
            wait_for(lambda: running.count(Counter.RECONNECTS) == 1, "it listens again")
            wait_for(lambda: running.count(Counter.REPAIRS), "a repair ends")
        (gap,) = [line for line in capfd.readouterr().out.splitlines() if "the connection was lost" in line]
        assert int(gap.split("started_ms=")[1].split()[0]) >= heard.since_ms


def test_the_watermark_waits_for_the_comparison() -> None:
    """What was missed is settled only once it is compared: until then the watermark stands, and then it passes."""
    with ValkeyServer() as server, capture(server, COMPARED, missed=(Missed(1_000),)) as (running, client):
        wishes: list[int] = []

        def is_asked() -> bool:
            wishes.extend(message.number for message in running.heard() if isinstance(message, CompareWanted))
            return bool(wishes)

        wait_for(is_asked, "a comparison is asked for")
        client.set("key", "value")
        running.take_until(lambda taken: bool(taken))
        time.sleep(2 * PING_MS / 1_000)
        assert running.heard_until().since_ms <= 1_000
        running.send(Compared(wishes[-1]))
        wait_for(heard_past_now(running, client), "the watermark passes")


def test_a_route_without_destination_is_not_compared() -> None:
    """What names no destination asks for no comparison, and its watermark waits for none."""
    plain: RouteSettings = route("set", "del")
    with ValkeyServer() as server, capture(server, plain, missed=(Missed(1_000),)) as (running, client):
        wait_for(heard_past_now(running, client), "the watermark passes")
        assert not is_compared(running)
