from __future__ import annotations

from typing import Any

import pytest

from engine.capture.watch.trust import IDLE_MARGIN_S, IDLE_S_MAX, Software, idle_limit_s, may_be_newer
from engine.model import Missed
from tests.looks import ANSWERS, DENIED, REPLICA, TIME_S, edited, look

REDIS = b"redis_version:%s\r\nrun_id:abc123\r\nlru_clock:%d\r\n"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"server": REDIS % (b"7.4.0", TIME_S % 2**24) + b"dragonfly_version:df-1.2\r\n"}, "unknown"),
        ({"server": REDIS % (b"6.2.5", TIME_S % 2**24)}, "before 7"),
        (edited("server", ("run_id:abc123\r\n", "")), "does not report"),
        (edited("server", (f"lru_clock:{TIME_S % 2**24}", f"lru_clock:{TIME_S % 2**24 - 2}")), "stands still"),
        (edited("server", (f"lru_clock:{TIME_S % 2**24}", f"lru_clock:{TIME_S % 2**24 + 5}")), "stands still"),
        (edited("persistence", ("bgsave_in_progress:0", "bgsave_in_progress:1")), "child"),
        (edited("persistence", ("module_fork_in_progress:0", "module_fork_in_progress:1")), "child"),
        (edited("persistence", ("\nasync_loading:0", "\nasync_loading:1")), "loaded"),
        ({"persistence": DENIED}, "child"),
        (edited("stats", ("total_forks:3\r\n", "")), "does not report"),
        ({"memory": b"maxmemory_policy:allkeys-lfu\r\n"}, "lfu"),
        ({"memory": DENIED}, "policy"),
        ({"replication": DENIED}, "does not report"),
        ({"commandstats": DENIED}, "does not report"),
        ({"commandstats": ANSWERS["commandstats"] + b"cmdstat_config|resetstat:calls=1,usec=9\r\n"}, "reset"),
        (REPLICA | {"CLIENT": b""}, "link"),
        (edited("replication", ("link_status:up", "link_status:down"), of=REPLICA), "link"),
        (edited("replication", ("sync_in_progress:0", "sync_in_progress:1"), of=REPLICA), "synchronized"),
    ],
)
def test_each_fact_alone_forbids_belief(answer: dict[str, Any], word: str) -> None:
    """Idle times are believed only where every fact speaks for them; the one that does not is named."""
    sight = look(**answer)
    assert sight.mark == 0
    assert word in sight.doubt


def test_servers_that_are_known_are_believed() -> None:
    """A primary and a replica that follows, of Valkey and of Redis from 7 on, have a mark and no doubt."""
    for sight in (look(), look(**REPLICA), look(server=REDIS % (b"7.0.15", TIME_S % 2**24))):
        assert sight.mark
        assert sight.doubt == ""


@pytest.mark.parametrize(
    "answer",
    [
        edited("stats", ("forks:3", "forks:4")),
        edited("stats", ("fields:0", "fields:1")),
        edited("server", ("abc123", "other")),
        edited("replication", ("replid:aaa", "replid:bbb")),
        edited("memory", ("noeviction", "allkeys-lru")),
        edited("commandstats", ("config|set:calls=4", "config|set:calls=5")),
        edited("commandstats", ("flushall:calls=2", "flushall:calls=3")),
        {"commandstats": ANSWERS["commandstats"] + b"cmdstat_swapdb:calls=1,usec=1\r\n"},
        {"commandstats": ANSWERS["commandstats"] + b"cmdstat_restore:calls=1,usec=1\r\n"},
        REPLICA,
    ],
)
def test_a_mark_differs_where_idle_times_may_have_lied_between(answer: dict[str, Any]) -> None:
    """What misleads idle times makes another mark, however soon it is over; the same figures make the same one."""
    assert look(**answer).mark not in (0, look().mark)
    assert look().mark == look().mark


def test_a_flush_of_some_database_misleads_nobody() -> None:
    """What is there after it was written after it: where another database is flushed on and on, narrowing goes on."""
    assert look(**edited("commandstats", ("flushdb:calls=1", "flushdb:calls=2"))).mark == look().mark


@pytest.mark.parametrize(
    ("server", "stamps"),
    [
        (b"redis_version:6.2.5\r\n", False),
        (b"redis_version:7.0.15\r\n", False),
        (b"redis_version:7.4.1\r\n", False),
        (b"redis_version:8.2.3\r\n", True),
        (b"redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n", False),
        (b"redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n", True),
        (b"redis_version:9.0.0\r\nkvrocks_version:2\r\n", False),
        (b"", False),
    ],
)
def test_strings_are_believed_from_versions_that_stamp_them(server: bytes, stamps: bool) -> None:
    """Others share small integers, or stamp a string when its command is parsed; unknown ones are not believed."""
    fields = dict(line.split(b":") for line in server.split(b"\r\n") if line)
    assert Software.of(fields).stamps_strings is stamps


def test_the_limit_is_the_longer_of_two_clocks() -> None:
    """A server's clock that was set back, or forward, makes no key look older than the gap."""
    missed = Missed(100_000, 1, clock_ms=90_000)
    margin_s = 1 + IDLE_MARGIN_S
    assert idle_limit_s(missed, 120_000, 30_000) == 20 + margin_s
    assert idle_limit_s(missed, 70_000, 30_000) == 20 + margin_s
    assert idle_limit_s(missed, 3_600_000, 30_000) == 3_500 + margin_s


@pytest.mark.parametrize(
    ("idle_s", "newer"), [(9, True), (10, True), (11, False), (IDLE_S_MAX, True), (None, True), ("no such key", True)]
)
def test_a_key_is_passed_over_only_for_its_idle_time(idle_s: object, newer: bool) -> None:
    """One idle for no longer than the gap, one from the future, and one that does not tell may have changed in it."""
    assert may_be_newer(idle_s, 10) is newer
