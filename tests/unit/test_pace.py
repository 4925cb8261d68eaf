from __future__ import annotations

import pytest

from engine.clock import FEW, SOONER, Pace
from engine.config import DeliverySettings
from engine.supervision.mains import gather_ms_of


class Host:
    """A clock that the test moves, and sleeps that move it."""

    def __init__(self) -> None:
        self.ms = 5_000.0
        self.slept_ms: list[float] = []

    def pace(self, interval_ms: float) -> Pace:
        return Pace(interval_ms, lambda: self.ms / 1_000, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept_ms.append(round(seconds * 1_000, 3))
        self.ms += seconds * 1_000


@pytest.fixture
def host() -> Host:
    return Host()


def test_turns_are_an_interval_apart_while_changes_keep_coming(host: Host) -> None:
    """What a turn took of its interval is not slept once more."""
    pace = host.pace(2.0)
    pace.begin()
    host.ms += 0.5
    pace.keep(1)
    pace.begin()
    host.ms += 0.25
    pace.keep(2)
    assert host.slept_ms == [1.5, 1.75]


def test_what_comes_alone_waits_for_nothing(host: Host) -> None:
    """Nobody sleeps before a turn: only after one, so a change that comes later finds the interval over."""
    pace = host.pace(2.0)
    pace.begin()
    pace.keep(1)
    host.ms += 1_000
    pace.begin()
    assert host.slept_ms == [2.0]


def test_a_turn_that_took_longer_is_followed_at_once(host: Host) -> None:
    """A busy loop gathers by itself."""
    pace = host.pace(2.0)
    pace.begin()
    host.ms += 3
    pace.keep(1)
    pace.keep(1)
    assert host.slept_ms == []


@pytest.mark.parametrize(
    ("changes", "interval_ms"),
    [(FEW, 3.0), (FEW * 2, 1.5), (FEW * 2.5, 1.2), (FEW * SOONER, 1.0), (FEW * 1_000, 1.0)],
)
def test_where_many_come_turns_follow_sooner(host: Host, changes: float, interval_ms: float) -> None:
    """The interval is the one in which a few would have come, within its bounds."""
    pace = host.pace(3.0)
    pace.begin()
    host.ms += 3.0
    pace.begin()
    pace.keep(int(changes))
    assert host.slept_ms == [interval_ms]


def test_many_after_a_silence_are_no_reason_to_hurry(host: Host) -> None:
    """The rate is that since the turn before."""
    pace = host.pace(3.0)
    pace.begin()
    pace.keep(500)
    assert host.slept_ms == [3.0]


def test_no_pace_asks_no_clock() -> None:
    """0 turns it off."""

    def forbidden(*_: float) -> float:
        raise AssertionError

    pace = Pace(0, forbidden, forbidden)
    pace.begin()
    pace.keep(1)


def test_one_stage_gathers() -> None:
    """Alone, a subscriber gathers for all invokers; with several, the invokers do, who see what all of them bring."""
    delivery = DeliverySettings(gather_ms=1.5)
    assert gather_ms_of(delivery, 1) == (1.5, 0)
    assert gather_ms_of(delivery, 2) == (0, 1.5)
