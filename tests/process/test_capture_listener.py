from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator

import pytest
import redis

from engine.capture.feed.listener import PING_MS, RETRY_MS_MAX, RETRY_MS_MIN, Listener, Phase
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sight import Change
from engine.clock import now_ms
from engine.config import RedisSettings
from engine.errors import RedisRefused, RedisUnreachable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import feed_of, wait_for
from tests.shard_plan import plan_shards


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(config={"notify-keyspace-events": "Kh"}) as running:
        yield running


SILENCE_MS = RedisSettings().read_timeout_ms


def new(server: ValkeyServer) -> Listener:
    feed = feed_of(plan_shards(2, 0, ())[0])
    return Listener(Subscription(RedisSettings(url=server.url), 0, feed, 0, 65_536), "Kh", chance=lambda: 1.0)


def turn(listener: Listener, moment_ms: int) -> bool:
    """Advance, and hand over the replies; tell whether it listens."""
    if listener.advance(moment_ms):
        assert listener.connection is not None
        while (reply := listener.connection.reply()) is not False:
            listener.handle(reply)
    return listener.phase is Phase.LISTENING


def test_a_pong_moves_the_watermark(server: ValkeyServer) -> None:
    """None stands until a look has followed a pong; then it is the server's time of the look before that ping."""
    listener = new(server)
    before = now_ms()
    wait_for(lambda: turn(listener, 0), "it listens")
    assert listener.watermark_ms == 0
    wait_for(lambda: turn(listener, 0) and listener.watermark_ms, "the look came")
    first = listener.watermark_ms
    assert before <= first <= now_ms()
    time.sleep(0.01)
    wait_for(lambda: turn(listener, PING_MS) and listener.watermark_ms > first, "the next one")
    assert listener.watermark_ms <= now_ms()
    listener.close()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["CONFIG", "SET", "notify-keyspace-events", ""], "were removed"),
        (["CONFIG", "SET", "notify-keyspace-events", "KEA"], "were changed"),
        (["FLUSHALL"], "flushed"),
        (["SWAPDB", "0", "1"], "swapped"),
    ],
)
def test_the_sentry_sees_what_events_do_not_tell(server: ValkeyServer, command: list[str], reason: str) -> None:
    """It is reported, and the watermark before it is withdrawn; what lacks of the flags is set again."""
    client = redis.Redis(port=server.port)
    listener = new(server)
    wait_for(lambda: turn(listener, 0) and listener.watermark_ms, "the first watermark")
    client.execute_command(*command)
    changes: list[Change] = []

    def is_seen() -> bool:
        turn(listener, PING_MS)
        changes.extend(listener.lookout.take_changes())
        return bool(changes)

    wait_for(is_seen, "the sentry has seen it")
    assert reason in changes[0].reasons[0]
    moments = itertools.count(2 * PING_MS, PING_MS // 10)
    wait_for(lambda: turn(listener, next(moments)) and listener.watermark_ms, "a new watermark")
    assert {"K", "h"} <= set(client.config_get("notify-keyspace-events")["notify-keyspace-events"].replace("A", "h"))
    listener.close()


def test_a_dead_connection_is_found(server: ValkeyServer) -> None:
    """A server that stays silent with a ping out is given up, after the bound and not before."""
    listener = new(server)
    wait_for(lambda: turn(listener, 0) and listener.watermark_ms, "it listens")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        turn(listener, PING_MS)
        turn(listener, PING_MS + SILENCE_MS)
        with pytest.raises(RedisUnreachable, match="5 s"):
            turn(listener, PING_MS + SILENCE_MS + 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)
        listener.close()


def test_attempts_wait_longer_and_longer(server: ValkeyServer) -> None:
    """Waits double up to a bound, and begin again once a watermark stands."""
    listener = new(server)
    waits = [listener.lost(0) for _ in range(10)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (2 * RETRY_MS_MIN, RETRY_MS_MAX)
    assert not turn(listener, RETRY_MS_MAX - 1)
    assert listener.phase is Phase.WAITING
    wait_for(lambda: turn(listener, RETRY_MS_MAX) and listener.watermark_ms, "a watermark stands")
    assert listener.lost(0) == waits[0]


def test_a_subscription_that_fails_at_its_first_ping(server: ValkeyServer) -> None:
    """To be subscribed proves nothing: attempts that end before a watermark stands wait longer and longer too."""
    redis.Redis(port=server.port).execute_command("ACL", "SETUSER", "default", "-ping")
    listener = new(server)
    waits: list[int] = []
    while len(waits) < 4:
        moment_ms = sum(waits)
        with pytest.raises(RedisRefused, match="ping"):
            wait_for(lambda: turn(listener, moment_ms) and None, "the ping is refused")  # noqa: B023
        waits.append(listener.lost(moment_ms))
    assert listener.completions == len(waits)
    assert waits == [2 * RETRY_MS_MIN, 4 * RETRY_MS_MIN, 8 * RETRY_MS_MIN, 16 * RETRY_MS_MIN]
