from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from engine.supervision.signals import SAME_MS, SignalInbox


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(clock: Clock) -> Iterator[SignalInbox]:
    inbox = SignalInbox(clock)
    yield inbox
    inbox.restore()


@pytest.mark.parametrize("looks", [1, 2])
def test_a_signal_that_comes_twice_at_once_is_one(inbox: SignalInbox, clock: Clock, looks: int) -> None:
    """`timeout` signals a command, and a moment later the group that it is in: a second SIGTERM would cut the drain."""
    signal.raise_signal(signal.SIGTERM)
    taken = inbox.take() if looks == 2 else []
    clock.now_ms += SAME_MS - 1
    signal.raise_signal(signal.SIGTERM)
    assert taken + inbox.take() == [signal.SIGTERM]


def test_a_signal_that_is_meant_again_counts_again(inbox: SignalInbox, clock: Clock) -> None:
    """Somebody who does not want to wait for the drain is heard, and so is another signal at once."""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    clock.now_ms += SAME_MS
    signal.raise_signal(signal.SIGTERM)
    assert inbox.take() == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
