from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.ring.wake import Wake


@pytest.fixture(params=["this system's", "a pipe's"])
def wake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wake]:
    """Yield the wake-up of this system, then the one of systems without eventfd."""
    if request.param == "a pipe's":
        monkeypatch.setattr(sys, "platform", "darwin")
    made = Wake()
    yield made
    made.close()


def is_set(wake: Wake) -> bool:
    return bool(select.select([wake], [], [], 0)[0])


def test_a_signal_before_the_wait_is_not_lost(wake: Wake) -> None:
    """The flag stays set until it is cleared, and can be set again then."""
    assert not is_set(wake)
    wake.signal()
    assert is_set(wake)
    wake.clear()
    assert not is_set(wake)
    wake.signal()
    assert is_set(wake)


def test_signals_never_block_and_are_cleared_at_once(wake: Wake) -> None:
    """More signals than a pipe holds are one set flag, and one clear takes it down."""
    for _ in range(100_000):
        wake.signal()
    assert is_set(wake)
    wake.clear()
    assert not is_set(wake)


def test_a_flag_that_is_not_set_is_cleared_without_waiting(wake: Wake) -> None:
    """Clear looks and returns: the loop may call it at any time."""
    wake.clear()
    assert not is_set(wake)


def test_a_signal_after_the_close_reaches_nobody(wake: Wake, tmp_path: Path) -> None:
    """A thread that ends late writes nothing into a file that has the descriptor's number by then."""
    wake.close()
    with (tmp_path / "taken").open("wb") as taken, (tmp_path / "taken too").open("wb") as too:
        wake.signal()
        assert (os.fstat(taken.fileno()).st_size, os.fstat(too.fileno()).st_size) == (0, 0)
