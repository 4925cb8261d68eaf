from __future__ import annotations

from collections import deque
from typing import Any, cast

import hiredis
import pytest

from engine.capture.watch.sentry import Sentry
from engine.capture.watch.sight import Change, Sight, compare
from engine.errors import RedisError
from engine.redis.connection import NOTHING, RespConnection, parse_url

TIME = [b"1700000000", b"123456"]
CONFIG = [b"notify-keyspace-events", b"Khg"]
SERVER = b"redis_version:7.2\r\nrun_id:abc123\r\n"
PERSISTENCE = b"rdb_bgsave_in_progress:0\r\naof_rewrite_in_progress:0\r\nmodule_fork_in_progress:0\r\n"
STATS = b"total_forks:3\r\nexpired_fields:0\r\n"
COMMANDS = b"cmdstat_config|set:calls=4,usec=1\r\ncmdstat_flushall:calls=2,usec=1\r\ncmdstat_flushdb:calls=1,usec=1\r\n"
LOOK: list[Any] = [TIME, CONFIG, SERVER, PERSISTENCE, STATS, COMMANDS]


class Wire:
    """A connection whose replies are given by hand."""

    def __init__(self) -> None:
        self.address = parse_url("redis://here:1/0")
        self.sent = 0
        self.replies: deque[Any] = deque()

    def send(self, _data: bytes) -> None:
        self.sent += 1

    def receive_available(self) -> bool:
        return bool(self.replies)

    def reply(self) -> Any:
        reply = self.replies.popleft() if self.replies else NOTHING
        if isinstance(reply, hiredis.ProtocolError):
            raise reply
        return reply


def sentry() -> tuple[Sentry, Wire]:
    wire = Wire()
    return Sentry(cast("RespConnection", wire)), wire


def look(*replies: Any) -> Sight:
    """Return what a look sees that gets these replies."""
    guard, wire = sentry()
    guard.ask()
    wire.replies.extend(replies)
    sight = guard.poll()
    assert sight is not None
    return sight


def look_with(index: int, reply: Any) -> Sight:
    return look(*(reply if place == index else known for place, known in enumerate(LOOK)))


def test_a_look_reads_the_servers_own_figures() -> None:
    """Time, flags, process, and the counts of what leaves no event."""
    sight = look(*LOOK)
    assert (sight.server_ms, sight.flags, sight.run_id) == (1_700_000_000_123, "Khg", b"abc123")
    assert (sight.config_sets, sight.flushes) == (4, 3)
    assert sight.mark


def test_what_a_server_does_not_tell_is_unknown() -> None:
    """A right that is missing leaves a figure unknown, and never looks like a change."""
    denied = hiredis.ReplyError("NOPERM")
    blind = look(TIME, denied, denied, denied, denied, denied)
    assert blind == Sight(1_700_000_000_123)
    assert compare(blind, blind, "Khg") == Change()


def test_a_server_that_counts_its_commands_as_a_whole_tells_no_sets() -> None:
    """Before Redis 7 our own CONFIG GET would count as well."""
    assert look_with(5, b"cmdstat_config:calls=9,usec=1\r\n").config_sets == -1


def test_a_server_without_time_is_refused() -> None:
    """Without the server's time nothing can be said of when."""
    with pytest.raises(RedisError):
        look_with(0, hiredis.ReplyError("NOPERM"))


@pytest.mark.parametrize(
    ("index", "reply"),
    [
        (3, PERSISTENCE.replace(b"bgsave_in_progress:0", b"bgsave_in_progress:1")),
        (3, PERSISTENCE.replace(b"module_fork_in_progress:0", b"module_fork_in_progress:1")),
        (4, b"expired_fields:0\r\n"),
        (2, b"redis_version:7.2\r\n"),
    ],
)
def test_idle_times_are_not_believed_while_they_may_be_wrong(index: int, reply: bytes) -> None:
    """There is no mark while a child saves, where forks are not counted, or where the process is unknown."""
    assert look_with(index, reply).mark == 0


@pytest.mark.parametrize(
    ("index", "reply"),
    [
        (4, STATS.replace(b"forks:3", b"forks:4")),
        (4, STATS.replace(b"fields:0", b"fields:1")),
        (2, b"run_id:other\r\n"),
    ],
)
def test_a_mark_differs_where_idle_times_may_have_lied_between(index: int, reply: bytes) -> None:
    """A fork, a field that expired, or another process makes another mark; the same figures the same one."""
    assert look_with(index, reply).mark not in (0, look(*LOOK).mark)
    assert look(*LOOK).mark == look(*LOOK).mark


def test_equal_looks_are_no_change() -> None:
    """Nothing is found where nothing happened; time alone is nothing."""
    before = look(*LOOK)
    assert compare(before, look_with(0, [b"1700000009", b"0"]), "Khg") == Change()


def test_flags_that_are_missing_deafen() -> None:
    """While a flag that is needed is off, events are lost; flags beyond those needed are no matter."""
    before = look(*LOOK)
    change = compare(before, look_with(1, [b"notify-keyspace-events", b"K"]), "Kh")
    assert change.is_deaf
    assert change.reasons
    assert compare(before, before, "Kh") == Change()


def test_flags_that_were_off_and_on_again_are_found() -> None:
    """The same flags with one more CONFIG SET between: they may have been off."""
    before = look(*LOOK)
    change = compare(before, look_with(5, COMMANDS.replace(b"set:calls=4", b"set:calls=6")), "Khg")
    assert change.reasons
    assert not change.is_deaf


@pytest.mark.parametrize(
    ("index", "reply", "word"),
    [
        (5, COMMANDS.replace(b"flushall:calls=2", b"flushall:calls=3"), "flushed"),
        (2, b"run_id:other\r\n", "another server"),
    ],
)
def test_flushes_and_other_servers_are_found(index: int, reply: bytes, word: str) -> None:
    """What takes keys away without an event, and a server that is not the one before, are named."""
    (reason,) = compare(look(*LOOK), look_with(index, reply), "Khg").reasons
    assert word in reason


def test_a_look_is_asked_for_once() -> None:
    """A second wish while a look is under way sends nothing."""
    guard, wire = sentry()
    assert guard.poll() is None
    guard.ask()
    guard.ask()
    assert (wire.sent, guard.is_asking()) == (1, True)


def test_a_look_ends_with_its_last_reply() -> None:
    """Replies may come in parts: the look is over when all are there, and the next one begins empty."""
    guard, wire = sentry()
    for _ in range(2):
        guard.ask()
        for reply in LOOK[:-1]:
            wire.replies.append(reply)
            assert guard.poll() is None
        wire.replies.append(COMMANDS)
        assert guard.poll() == look(*LOOK)
        assert not guard.is_asking()


def test_answers_to_what_it_was_told_are_no_part_of_a_look() -> None:
    """Replies come in order: those to what was told before a look are kept apart from it."""
    guard, wire = sentry()
    guard.set_flags("Khg")
    guard.ask()
    wire.replies.extend([b"OK", *LOOK])
    assert guard.poll() == look(*LOOK)
    assert guard.take_others() == [b"OK"]
    assert guard.take_others() == []


def test_what_is_not_redis_breaks_the_connection() -> None:
    """Bytes that are no reply raise an error that can be shown."""
    guard, wire = sentry()
    guard.ask()
    wire.replies.append(hiredis.ProtocolError("what is this"))
    with pytest.raises(RedisError):
        guard.poll()
