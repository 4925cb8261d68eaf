from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from engine.capture.listener import PING_MS, RETRY_MS_MAX, RETRY_MS_MIN, SILENCE_MS_MAX, Listener, Phase, Subscription
from engine.capture.shards import plan_shards
from engine.clock import now_ms
from engine.config import RedisSettings
from engine.errors import RedisUnreachable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import wait_for


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def new(server: ValkeyServer) -> Listener:
    shard = plan_shards(2, 0, ())[0]
    return Listener(Subscription(RedisSettings(url=server.url), 0, shard, 65_536), "Kh", chance=lambda: 1.0)


def turn(listener: Listener, moment_ms: int) -> bool:
    """Advance, and hand over the replies; tell whether it listens."""
    if listener.advance(moment_ms):
        assert listener.connection is not None
        while (reply := listener.connection.reply()) is not False:
            listener.handle(reply)
    return listener.phase is Phase.LISTENING


def test_a_pong_moves_the_watermark(server: ValkeyServer) -> None:
    """It stands at the subscription first; each ping that is answered moves it to when that was sent."""
    listener = new(server)
    before = now_ms()
    wait_for(lambda: turn(listener, 0), "it listens")
    first = listener.heard_until_ms
    assert before <= first <= now_ms()
    time.sleep(0.01)
    wait_for(lambda: turn(listener, PING_MS) and listener.heard_until_ms > first, "the pong came")
    assert listener.heard_until_ms <= now_ms()
    listener.close()


def test_a_dead_connection_is_found(server: ValkeyServer) -> None:
    """A server that stays silent with a ping out is given up, after the bound and not before."""
    listener = new(server)
    wait_for(lambda: turn(listener, 0), "it listens")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        turn(listener, PING_MS)
        turn(listener, PING_MS + SILENCE_MS_MAX)
        with pytest.raises(RedisUnreachable, match="15 s"):
            turn(listener, PING_MS + SILENCE_MS_MAX + 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)
        listener.close()


def test_attempts_wait_longer_and_longer(server: ValkeyServer) -> None:
    """Waits double up to a bound, and begin again once it has listened."""
    listener = new(server)
    waits = [listener.lost(0) for _ in range(10)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (2 * RETRY_MS_MIN, RETRY_MS_MAX)
    assert not turn(listener, RETRY_MS_MAX - 1)
    assert listener.phase is Phase.WAITING
    wait_for(lambda: turn(listener, RETRY_MS_MAX), "it listens")
    assert listener.lost(0) == waits[0]
