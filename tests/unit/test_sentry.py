from __future__ import annotations

from collections import deque
from typing import Any, cast

import hiredis
import pytest

from engine.capture.watch.sentry import Sentry
from engine.errors import RedisError
from engine.redis.address import parse_url
from engine.redis.connection import NOTHING, RespConnection
from tests.looks import answers, look


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
        for reply in answers()[:-1]:
            wire.replies.append(reply)
            assert guard.poll() is None
        wire.replies.append(answers()[-1])
        assert guard.poll() == look()
        assert not guard.is_asking()


def test_answers_to_what_it_was_told_are_no_part_of_a_look() -> None:
    """Replies come in order: those to what was told before a look are kept apart from it."""
    guard, wire = sentry()
    guard.set_flags("Khg")
    guard.ask()
    wire.replies.extend([b"OK", *answers()])
    assert guard.poll() == look()
    assert guard.take_others() == [b"OK"]
    assert guard.take_others() == []


def test_what_is_not_redis_breaks_the_connection() -> None:
    """Bytes that are no reply raise an error that can be shown."""
    guard, wire = sentry()
    guard.ask()
    wire.replies.append(hiredis.ProtocolError("what is this"))
    with pytest.raises(RedisError):
        guard.poll()
