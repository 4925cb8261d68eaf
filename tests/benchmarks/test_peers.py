"""Others on the same load: who is here, who is not, and one of them through everything, in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.measured.parse import measure_parse
from benchmarks.peers.__main__ import main, table_of
from benchmarks.peers.peers import BENTO, NOT_INSTALLED, Bento, Script, installed
from benchmarks.peers.play import Effort, play

SMALL = Effort(rate_per_s=200.0, seconds=1.5, refusal_s=0.5, kills=1, pause_s=0.3, quiet_s=10.0)


def test_a_script_is_put_through_everything() -> None:
    """A `redis-py` script delivers all without a fault and past HTTP 500; what is set while it is dead it loses."""
    outcome = play(Script(), SMALL, measure_parse)
    assert [*outcome.faults] == ["no fault", "CLIENT KILL", "HTTP 500", "kill -9"]
    assert outcome.faults["no fault"].lost == 0
    assert outcome.faults["HTTP 500"].lost == 0
    assert outcome.faults["kill -9"].lost > 0
    assert outcome.ended == []
    assert outcome.cpu_us > 0
    assert outcome.yardsticks > 0
    assert 0 < outcome.lag.p50_ms <= outcome.lag.p99_ms
    assert 0 < outcome.requests_per_million <= 1_000_000
    assert table_of([outcome], SMALL).row_count == 1


def test_who_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary on PATH the engine and the script are measured, and a line says what is missing."""
    monkeypatch.setenv("PATH", "")
    peers, absent = installed()
    assert [peer.name for peer in peers] == ["the engine", "redis-py script"]
    assert absent == [NOT_INSTALLED]


@pytest.mark.parametrize(
    ("binary", "between"), [("bento", ["-c"]), ("redpanda-connect", ["run"]), ("rpk", ["connect", "run"])]
)
def test_a_binary_is_found_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, binary: str, between: list[str]
) -> None:
    """Bento, and Redpanda Connect under either name, is run by our configuration file, in batches and one by one."""
    place = tmp_path / binary
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    peers, absent = installed()
    assert not absent
    batches, single = peers[2:]
    assert (batches.name, single.name) == (f"{binary}, batches", f"{binary}, one by one")
    assert isinstance(batches, Bento)
    assert isinstance(single, Bento)
    assert [*batches.command] == [str(place), *between]
    assert (batches.batch, single.batch) == (500, 1)
    assert BENTO.exists()


def test_a_name_that_nobody_has_is_refused() -> None:
    """A mistyped name ends with the names that there are."""
    done = CliRunner().invoke(main, ["--only", "nobody"])
    assert done.exit_code == 2
    assert "redis-py script" in done.output
