"""Whom a Sentinel names as the primary, as a subscriber asks it beside its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from engine.capture.sentinel_watch import AGAIN_MS_MIN, CONNECT_LOOK_MS, SentinelWatch
from engine.clock import monotonic_ms
from engine.config import RedisSettings
from tests.cluster import Watched, sentinels
from tests.scripted import Scripted, bulk
from tests.support import wait_for

NOBODY = b"*-1\r\n"


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with sentinels(replicas=1) as made:
        yield made


def place(host: str, port: int) -> bytes:
    return b"*2\r\n" + bulk(host.encode()) + bulk(b"%d" % port)


def url_of(*guards: Scripted) -> str:
    places = ",".join(guard.url.removeprefix("redis://").removesuffix("/0") for guard in guards)
    return f"redis+sentinel://{places}/carts"


def asked(guard: Scripted) -> int:
    return sum(command[0] == b"SENTINEL" for command in guard.asked)


def turn(watch: SentinelWatch, followed: str, until: Callable[[str], object]) -> list[str]:
    """Turn as a loop does until this holds of what was last said; return all that was."""
    said: list[str] = []

    def goes_on() -> bool:
        reason = watch.advance(followed, monotonic_ms())
        said.extend(filter(None, [reason]))
        return bool(until(reason))

    wait_for(goes_on, "the Sentinel's answer")
    return said


def test_a_failover_is_told(watched: Watched) -> None:
    """That another leads is told though the old primary leads on; which Sentinel is asked makes no difference."""
    watched.wait_until_ok()
    before = watched.primary()
    watches = [SentinelWatch(RedisSettings(url=watched.url), shard) for shard in range(len(watched.guards))]
    after = watched.failover("SENTINEL FAILOVER")
    assert before.client.info("replication")["role"] == "master"
    for watch in watches:
        assert turn(watch, before.address, bool) == [f"a Sentinel names {after.address} as the primary"]
        watch.close()


def test_a_sentinel_that_dies(watched: Watched) -> None:
    """Another Sentinel is asked in its place."""
    watched.wait_until_ok()
    watch = SentinelWatch(RedisSettings(url=watched.url), 0)
    assert turn(watch, "elsewhere:1", bool)
    first = watched.guards[0]
    first.kill()
    try:
        assert turn(watch, "elsewhere:2", bool)
        assert {connection.address.port for connection in watch.sockets()} <= {watched.guards[1].port}
    finally:
        watch.close()
        first.server.start()
        watched.wait_until_ok()


def test_what_stays_as_it_is() -> None:
    """Nothing is told while the Sentinel names whom the engine follows, by the address that is reached from here."""
    with Scripted({b"SENTINEL": [place("10.0.0.1", 6379)]}) as guard:
        redis = RedisSettings(url=url_of(guard), node_addresses=("10.0.0.1:6379=cache:7001",))
        watch = SentinelWatch(redis, 0)
        assert turn(watch, "cache:7001", lambda _: asked(guard) == 3) == []
        assert turn(watch, "10.0.0.1:6379", bool) == ["a Sentinel names cache:7001 as the primary"]
        watch.close()


def test_what_goes_on_is_told_again() -> None:
    """It is told once more after a second, for whoever was asked may not have known it yet; another name at once."""
    names = [place("a", 1), place("a", 1), place("b", 2), place("b", 2), place("b", 2), place("b", 2)]
    with Scripted({b"SENTINEL": names}) as guard:
        watch = SentinelWatch(RedisSettings(url=url_of(guard)), 0)
        began_ms, told = monotonic_ms(), list[tuple[str, int]]()

        def note(reason: str) -> bool:
            if reason:
                told.append((reason.split()[3], monotonic_ms() - began_ms))
            return len(told) == 3

        turn(watch, "old:1", note)
        assert [name for name, _ in told] == ["a:1", "b:2", "b:2"]
        assert told[2][1] - told[1][1] >= AGAIN_MS_MIN
        watch.close()


@pytest.mark.parametrize("answer", [NOBODY, b"-NOPERM no permissions\r\n", b"-ERR unknown command\r\n", b"?"])
def test_a_sentinel_of_no_use(answer: bytes) -> None:
    """One that names nobody, refuses, or talks nonsense is left for the next, for good while that one answers."""
    with Scripted({b"SENTINEL": [answer]}) as useless, Scripted({b"SENTINEL": [place("a", 1)]}) as guard:
        watch = SentinelWatch(RedisSettings(url=url_of(useless, guard)), 0)
        assert turn(watch, "old:1", bool) == ["a Sentinel names a:1 as the primary"]
        turn(watch, "a:1", lambda _: asked(guard) == 3)
        assert asked(useless) == 1
        watch.close()


def test_nobody_answers() -> None:
    """Where no Sentinel answers, nothing is told, and they are asked ever more seldom, each in turn."""
    watch = SentinelWatch(RedisSettings(url="redis+sentinel://127.0.0.1:1,127.0.0.1:2/carts"), 0)
    moment_ms, waits = 0, list[int]()
    while len(waits) < 6:
        assert watch.advance("old:1", moment_ms) == ""
        if (wait_ms := watch.wait_ms(moment_ms)) != CONNECT_LOOK_MS:
            waits.append(wait_ms)
            moment_ms += wait_ms
        time.sleep(0.001)
    assert waits == [1, 500, 1, 1_000, 1, 2_000]
