from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from engine.delivery.backlog.shelf import Shelf
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Frame, Ledger
from engine.delivery.lanes.shelving import Shelving
from engine.delivery.lanes.work import Batch, Entry
from engine.digests.table import DigestTable
from engine.model import Outcome, Run
from tests.simulation import simulation as simulation_module
from tests.simulation.destination import Broken
from tests.simulation.functions import MODES
from tests.simulation.routing import Scope
from tests.simulation.simulation import Simulation

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "80"))
STORY_LINES_MAX = 40
SCOPE = Scope()
"""What may happen: everything."""
REPEATING = Scope(repeats=True)
"""And values come again."""


def simulate(seed: int, folder: Path, patch: pytest.MonkeyPatch, scope: Scope = SCOPE) -> Simulation:
    """Run one seed; a failure says which, and what happened before it."""
    simulation = Simulation(seed, folder, patch, scope)
    try:
        simulation.run()
    except Exception as error:
        story = "\n".join(simulation.world.story[-STORY_LINES_MAX:])
        error.add_note(f"seed {seed}, at {simulation.world.mono_ms} ms, after {simulation.turns} turns:\n{story}")
        raise
    finally:
        simulation.close()
    return simulation


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_guarantee_holds(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails in whatever order: every table ends with the last values, in order, and all work ends."""
    simulate(seed, tmp_path, monkeypatch)


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_the_guarantee_holds_where_unchanged_values_are_skipped(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where values come again and again, functions lose some, and routes skip what they have accepted."""
    simulate(seed, tmp_path, monkeypatch, REPEATING)


def faults_found(folder: Path, scope: Scope = SCOPE, seeds: int = 60) -> str:
    """Return what the first seed says that finds something; "" where none of them does."""
    for seed in range(seeds):
        with pytest.MonkeyPatch.context() as patch:
            try:
                simulate(seed, folder / str(seed), patch, scope)
            except Broken as error:
                return str(error)
    return ""


def test_it_finds_a_lost_invocation_that_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes a lost invocation for one that has ended is found out."""
    real = RouteLane.complete

    def complete(self: RouteLane, batch: Batch, outcome: Outcome, moment_ms: int, unix_ms: int) -> None:
        real(self, batch, msgspec.structs.replace(outcome, is_lost=False), moment_ms, unix_ms)

    monkeypatch.setattr(RouteLane, "complete", complete)
    assert "in flight twice" in faults_found(tmp_path)


def test_it_finds_a_successor_that_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invoker that delivers at once what a killed one may have had in flight is found out."""

    def add_fenced(self: Lane, runs: list[Run], frame: Frame, due_ms: int) -> None:
        self.add(runs, frame, due_ms)

    monkeypatch.setattr(Lane, "add_fenced", add_fenced)
    assert "in flight twice" in faults_found(tmp_path)


def test_it_finds_frames_that_are_released_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes a frame for settled as soon as its keys were sent is found out."""

    def settled(self: Ledger) -> int | None:
        frames, end = self._frames, None
        while frames:
            frame = frames.popleft()
            end = frame.end
            self._passed.update({watermark.node: watermark for watermark in frame.watermarks})
        return end

    monkeypatch.setattr(Ledger, "settled", settled)
    assert "neither delivered nor on disk" in faults_found(tmp_path)


def test_it_finds_rows_that_are_removed_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that forgets the row of a key that has changed again is found out."""

    def settled(self: Shelf, _lane: Lane, entries: list[Entry]) -> None:
        self._backlog.remove(self.route, [key for key, _ in entries])

    monkeypatch.setattr(Shelf, "settled", settled)
    assert faults_found(tmp_path)


def test_it_finds_retries_without_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that keeps whatever failed in memory is found out."""
    monkeypatch.setattr(Shelving, "park", lambda *_: False)
    monkeypatch.setattr(simulation_module, "KEYS", tuple(b"a%d" % number for number in range(400)))
    monkeypatch.setattr(Simulation, "fill_disk", Simulation.write)
    for mode in MODES.keys() - {"well"}:
        monkeypatch.setitem(MODES, mode, {"error": 1})
    assert "wait in memory" in faults_found(tmp_path)


def test_it_finds_digests_that_are_not_void_while_a_value_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that believes a digest after it has sent another value is found out."""
    monkeypatch.setattr(DigestTable, "void", lambda *_: None)
    assert faults_found(tmp_path, REPEATING)


def test_it_finds_marks_that_force_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that skips what an audit wants to be delivered again is found out."""
    monkeypatch.setattr(RouteLane, "force", lambda *_: None)
    assert faults_found(tmp_path, REPEATING)
