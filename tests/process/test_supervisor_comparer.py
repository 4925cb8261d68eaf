"""Comparisons that subscribers wish for, on a real supervisor with stub children."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_supervisor import Engine

MANY = 1_000_000


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    running = Engine(tmp_path, shards=1, **request.param)
    try:
        yield running.until_ready()
    finally:
        running.close()


@pytest.mark.parametrize("engine", [{"wishes": 1, "comparison_waits": True}], indirect=True)
def test_a_run_from_before_a_kill_fulfils_no_wish_of_the_next_life(engine: Engine) -> None:
    """Each life of a subscriber counts its wishes from 1: a run that its predecessor has wished for is not its own."""
    engine.until(lambda: "comparison begins" in engine.journal(), "a run for the first life")
    pid = engine.child("subscriber 1/1")["pid"]
    os.kill(pid, signal.SIGKILL)
    engine.until_replaced("subscriber 1/1", pid)
    (engine.folder / "go").touch()
    engine.until(lambda: "subscriber 0 has 1" in engine.journal(), "the wish of the second life is fulfilled")
    before = engine.journal()[: engine.journal().index("subscriber 0 has 1")]
    assert before.count("comparison begins") == 2


@pytest.mark.parametrize("engine", [{"wishes": MANY}], indirect=True)
def test_wishes_that_keep_coming_put_no_run_off(engine: Engine) -> None:
    """While a subscriber wishes anew all the time, runs begin and fulfil what was wished a fence before."""
    engine.until(lambda: engine.journal().count("comparison ends") >= 3, "three runs")
    fulfilled = [int(line.split()[-1]) for line in engine.journal() if line.startswith("subscriber 0 has")]
    assert fulfilled == sorted(set(fulfilled))
