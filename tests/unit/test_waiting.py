"""A subscriber's loop serves the feeds that have something to say, or are due, and no others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from engine.capture.waiting import FULL_WAIT_MS_MAX, FULL_WAIT_MS_MIN, FeedName, Waiter

ONE, OTHER = (1, b""), (2, b"")


class Ends:
    """Connections as a waiter sees them, and who writes to them."""

    def __init__(self) -> None:
        self._made: list[tuple[socket.socket, socket.socket]] = []

    def new(self) -> Any:
        self._made.append(socket.socketpair())
        return self._made[-1][0]

    def say(self, connection: Any) -> None:
        next(theirs for ours, theirs in self._made if ours is connection).send(b"x")

    def close(self) -> None:
        for pair in self._made:
            for end in pair:
                end.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


@pytest.fixture
def link(ends: Ends) -> Any:
    return ends.new()


@pytest.fixture
def waiter(link: Any) -> Waiter:
    return Waiter(link.fileno())


def wait(waiter: Waiter, moment_ms: int = 0) -> set[FeedName]:
    waiter.wait(moment_ms, 0, is_flushed=True)
    return waiter.take_ready()


def test_feeds_that_have_something_to_say(waiter: Waiter, ends: Ends) -> None:
    """One that is readable is served, by any of its connections; one that says nothing is not."""
    one, sentry, other = ends.new(), ends.new(), ends.new()
    waiter.follow(ONE, [one, sentry], 1_000, has_more=False)
    waiter.follow(OTHER, [other], 1_000, has_more=False)
    assert wait(waiter) == set()
    ends.say(sentry)
    assert wait(waiter) == {ONE}
    ends.say(other)
    assert wait(waiter) == {ONE, OTHER}


def test_feeds_that_are_due(waiter: Waiter) -> None:
    """Each is due once, at its newest moment; one that is ready anyway is not told twice."""
    waiter.follow(ONE, [], 10, has_more=False)
    waiter.follow(ONE, [], 20, has_more=False)
    waiter.follow(OTHER, [], 15, has_more=False)
    assert waiter.due(10) == []
    assert waiter.due(15) == [OTHER]
    assert waiter.due(20) == [ONE]
    assert waiter.due(99) == []
    waiter.follow(ONE, [], 30, has_more=True)
    assert waiter.due(30) == []
    assert wait(waiter) == {ONE}
    waiter.follow(ONE, [], 30, has_more=False)
    assert waiter.due(30) == [ONE]


def test_a_feed_that_has_more_has_its_turn_with_those_that_speak(waiter: Waiter, ends: Ends) -> None:
    """What was read, and not all, keeps nobody else waiting, and needs no further bytes."""
    one, other = ends.new(), ends.new()
    waiter.follow(ONE, [one], 1_000, has_more=True)
    waiter.follow(OTHER, [other], 1_000, has_more=False)
    ends.say(other)
    assert wait(waiter) == {ONE, OTHER}


def test_a_descriptor_that_another_feed_has_now(waiter: Waiter, ends: Ends) -> None:
    """A connection that was closed is waited for no more, and its number may be another feed's at once."""
    old, new = ends.new(), ends.new()
    waiter.follow(ONE, [old], 1_000, has_more=False)
    number = old.fileno()
    old.close()
    os.dup2(new.fileno(), number)
    twin = socket.socket(fileno=number)
    waiter.follow(OTHER, [twin], 1_000, has_more=False)  # type: ignore[list-item]
    waiter.follow(ONE, [], 1_000, has_more=False)
    ends.say(new)
    assert wait(waiter) == {OTHER}
    waiter.forget(OTHER)
    twin.close()
    assert wait(waiter) == set()
    assert waiter.due(1_000) == [ONE]


def test_the_supervisor_is_heard(waiter: Waiter, ends: Ends, link: Any) -> None:
    """What the supervisor says is no feed's."""
    assert not waiter.wait(0, 0, is_flushed=True)
    ends.say(link)
    assert waiter.wait(0, 0, is_flushed=True)
    assert waiter.take_ready() == set()


class Poller:
    """Notes how long it was to wait."""

    def __init__(self) -> None:
        self.waits: list[int] = []

    def poll(self, wait_ms: int) -> list[tuple[int, int]]:
        self.waits.append(wait_ms)
        return []


def test_how_long_is_waited(waiter: Waiter) -> None:
    """Until the first feed is due; while a ring is full, a little, and ever longer."""
    poller: Any = Poller()
    waiter._poller = poller
    waiter.wait(0, 500, is_flushed=True)
    waiter.follow(ONE, [], 30, has_more=False)
    waiter.wait(10, 500, is_flushed=True)
    waiter.wait(30, 500, is_flushed=True)
    assert poller.waits == [500, 20, 1]
    waiter.follow(ONE, [], 1_030, has_more=False)
    assert waiter.due(30) == []
    for _ in range(9):
        waiter.wait(30, 500, is_flushed=False)
    assert (poller.waits[3], poller.waits[-1]) == (FULL_WAIT_MS_MIN, FULL_WAIT_MS_MAX)
    waiter.follow(ONE, [], 1_030, has_more=True)
    waiter.wait(30, 500, is_flushed=True)
    assert poller.waits[-1] == 0
