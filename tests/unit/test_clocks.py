from __future__ import annotations

import pytest

from engine.supervision.progress import clocks as module
from engine.supervision.progress.clocks import Clocks

AHEAD_MS = 1_700_000_000_000


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | str]:
    """A host whose clocks the test moves."""
    state: dict[str, int | str] = {"boot": "one", "monotonic": 50_000, "wall": AHEAD_MS + 49_000}
    monkeypatch.setattr(module, "boot_id", lambda: state["boot"])
    monkeypatch.setattr(module, "monotonic_ms", lambda: state["monotonic"])
    monkeypatch.setattr(module, "now_ms", lambda: state["wall"])
    return state


def test_on_the_same_host_the_monotonic_clock_tells(host: dict[str, int | str]) -> None:
    """As long as the host runs, its time of day may be set, and nothing changes."""
    kept = Clocks.of(AHEAD_MS)
    host["monotonic"], host["wall"] = 90_000, 5
    assert kept.server_ahead_ms() == AHEAD_MS


def test_on_another_host_the_time_of_day_tells(host: dict[str, int | str]) -> None:
    """Its monotonic clock began elsewhere: as much time of day has passed as by the clock before."""
    kept = Clocks.of(AHEAD_MS)
    watermark_ms = AHEAD_MS + 50_000
    host.update(boot="two", monotonic=7_000, wall=AHEAD_MS + 49_000 + 20_000)
    assert 7_000 - (watermark_ms - kept.server_ahead_ms()) == 20_000


def test_what_was_not_known_stays_unknown(host: dict[str, int | str]) -> None:
    """Nothing is made up of nothing, neither here nor elsewhere."""
    kept = Clocks.of(0)
    assert kept.server_ahead_ms() == 0
    host["boot"] = "two"
    assert kept.server_ahead_ms() == Clocks().server_ahead_ms() == 0


def test_a_host_has_a_name_for_its_run() -> None:
    """It is the same one as long as the host runs."""
    assert module.boot_id() == module.boot_id()
