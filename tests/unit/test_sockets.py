"""What expires is looked at when the first of it may, and not every turn."""

from __future__ import annotations

from collections.abc import Callable

from engine.delivery.sockets import Sockets


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
