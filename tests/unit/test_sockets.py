"""What expires is looked at when the first of it may, and not every turn; what is not urgent may be served later."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import pytest

from engine.delivery.sockets import Sockets
from engine.ring.wake import Wake


class Calls:
    """Calls under way, by when they expire; notes when it was asked to give some up."""

    def __init__(self, *until_ms: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.until_ms = list(until_ms)
        self.looked_ms: list[int] = []
        self._meanwhile = meanwhile

    def next_expiry_ms(self) -> int | None:
        return min(self.until_ms, default=None)

    def expire(self, moment_ms: int) -> None:
        self.looked_ms.append(moment_ms)
        self.until_ms = [until_ms for until_ms in self.until_ms if until_ms > moment_ms]
        self._meanwhile()


def test_calls_expire_in_time() -> None:
    """Nobody is asked before something may expire; each is given up when its time has come."""
    sockets, calls, others = Sockets(), Calls(100, 300), Calls(200)
    assert sockets.next_expiry_ms() is None
    sockets.expect(calls, 100)
    sockets.expect(others, 200)
    for moment_ms in (0, 99, 100, 150, 200, 250, 300, 400):
        sockets.expire(moment_ms)
    assert calls.looked_ms == others.looked_ms == [100, 200, 300]
    assert calls.until_ms == others.until_ms == []
    assert sockets.next_expiry_ms() is None


def test_an_earlier_call_is_looked_at_earlier() -> None:
    """What may expire first counts, whoever came first; what is not expected any more is asked no more."""
    sockets, late, early = Sockets(), Calls(900), Calls(50)
    sockets.expect(late, 900)
    sockets.expect(early, 50)
    assert sockets.next_expiry_ms() == 50
    sockets.expire(60)
    assert sockets.next_expiry_ms() == 900
    sockets.expect_no_more(late)
    sockets.expire(900)
    assert late.looked_ms == [60]


def test_a_thread_may_hurry() -> None:
    """A look that is asked for comes with the next turn, also where it is asked for during a look."""
    sockets = Sockets()
    calls = Calls(meanwhile=lambda: sockets.hurry() if len(calls.looked_ms) == 1 else None)
    sockets.expect(calls, 1_000)
    sockets.hurry()
    for moment_ms in (1, 2, 3):
        sockets.expire(moment_ms)
    assert calls.looked_ms == [1, 2]


class Pair:
    """Something urgent and something that is not; who was served, and how long was waited for what is urgent."""

    def __init__(self) -> None:
        self.urgent, self.other = Wake(), Wake()
        self.served: list[str] = []
        self.waited_ms: list[int] = []
        self.comes_meanwhile = False
        self.sockets = Sockets()
        self.sockets.watch(self.urgent.fileno(), select.POLLIN, lambda: self._serve("urgent"), is_urgent=True)
        self.sockets.watch(self.other.fileno(), select.POLLIN, lambda: self._serve("other"))
        self._real = self.sockets._urgent
        self.sockets._urgent = self  # type: ignore[assignment]
        self.register, self.unregister = self._real.register, self._real.unregister

    def poll(self, wait_ms: int) -> list[tuple[int, int]]:
        self.waited_ms.append(wait_ms)
        if self.comes_meanwhile:
            self.urgent.signal()
        return self._real.poll(0)

    def _serve(self, who: str) -> None:
        self.served.append(who)
        (self.urgent if who == "urgent" else self.other).clear()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.urgent.close()
    made.other.close()


def test_what_is_not_urgent_is_served_along_with_what_is(pair: Pair) -> None:
    """An answer that has come waits until something urgent does, and both are served in one turn."""
    pair.other.signal()
    pair.comes_meanwhile = True
    pair.sockets.wait(60_000, 4)
    assert sorted(pair.served) == ["other", "urgent"]
    assert pair.waited_ms == [4]


def test_what_is_not_urgent_waits_no_longer(pair: Pair) -> None:
    """Where nothing urgent comes, it is served all the same, and what has to be done by a moment keeps it."""
    pair.other.signal()
    pair.sockets.wait(60_000, 4)
    assert pair.served == ["other"]
    pair.other.signal()
    pair.sockets.wait(1, 4)
    assert pair.served == ["other", "other"]
    assert pair.waited_ms == [4, 1]


def test_nothing_waits_where_nobody_asks_for_it(pair: Pair) -> None:
    """Without patience everything ends the wait."""
    pair.other.signal()
    pair.sockets.wait(60_000)
    assert (pair.served, pair.waited_ms) == (["other"], [])


def test_a_request_that_is_not_sent_whole_is_urgent(pair: Pair) -> None:
    """As long as it wants to be sent on, from its start or later, it ends each wait; then it waits as others do."""
    for wants in (select.POLLIN | select.POLLOUT, select.POLLIN):
        pair.sockets.forget(pair.other.fileno())
        pair.sockets.watch(pair.other.fileno(), wants, lambda: pair._serve("other"))
        assert bool(pair._real.poll(0)) == bool(wants & select.POLLOUT)
    pair.sockets.change(pair.other.fileno(), select.POLLIN | select.POLLOUT)
    assert pair._real.poll(0)
    pair.sockets.change(pair.other.fileno(), select.POLLIN)
    assert not pair._real.poll(0)
