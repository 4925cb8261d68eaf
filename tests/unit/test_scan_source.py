"""The parts of the ``scan`` source: pace, names, what was seen, and when too much is gone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.capture.sources.scan.departed import is_held
from engine.capture.sources.scan.pace import SHARE, Pace
from engine.capture.sources.scan.seen import Seen
from engine.digests import names as names_module
from engine.digests.names import Names, NamesBroken, path_of
from engine.errors import ConfigError
from engine.routing.nodes import NODES_MAX
from engine.settings.file import load_settings

KEYS = [b"key:%d" % number for number in range(5_000)]


@given(st.integers(1, 10_000_000), st.integers(1, 86_400), st.integers(100, 1_000_000))
def test_a_pass_takes_its_part_of_the_period(keys: int, period_s: int, bound: int) -> None:
    """It ends within the period where the bound allows that, and never looks at more keys a second than the bound."""
    pace = Pace(period_s * 1_000, bound)
    pace.begin(keys, 0)
    steps, moment_ms = 0, 0
    while steps * 500 < keys and steps < 200:
        pace.spend(500, moment_ms)
        steps += 1
        moment_ms = max(moment_ms, pace._due_ms)
    looked_at = steps * 500
    least_ms = looked_at * 1_000 / bound
    planned_ms = min(1.0, looked_at / keys) * SHARE * period_s * 1_000
    assert moment_ms >= least_ms - steps
    assert moment_ms <= max(least_ms, planned_ms) + 500 * 1_000 / pace._keys_per_s + 2 * steps
    assert pace.end(moment_ms) == moment_ms
    assert pace.wait_ms(moment_ms) == max(1, period_s * 1_000 - moment_ms)


def test_what_was_not_planned_is_hurried() -> None:
    """A table with more places than keys takes more steps; they go as fast as the bound allows."""
    pace = Pace(100_000, 1_000)
    pace.begin(1_000, 0)
    for _ in range(3):
        pace.spend(500, 0)
    assert pace.keys_per_s == 1_000


def test_what_was_seen_is_known() -> None:
    """Nobody who was found is taken for gone, and hardly anybody who was not for found; no two passes err alike."""
    seen, again = Seen(len(KEYS), b"1"), Seen(len(KEYS), b"2")
    for key in KEYS:
        seen.add(key)
        again.add(key)
    assert all(key in seen for key in KEYS)
    others = [b"other:%d" % number for number in range(20_000)]
    overlooked = [key for key in others if key in seen]
    assert len(overlooked) < 40
    assert not [key for key in overlooked if key in again]
    assert len(seen._bytes) == 4 * len(KEYS)


@pytest.mark.parametrize(
    ("gone", "known", "there", "share_max", "held"),
    [
        (0, 1_000, 0, 0.25, False),
        (100, 120, 20, 0.25, False),
        (101, 400, 299, 0.25, True),
        (101, 1_000, 899, 0.25, False),
        (5, 5, 0, 0.25, True),
        (5, 5, 0, 1.0, False),
        (101, 102, 1, 0.0, True),
    ],
)
def test_too_much_that_is_gone_is_held(gone: int, known: int, there: int, share_max: float, held: bool) -> None:
    """A hundred keys always, a share of more, and nothing where the node came back empty, unless all is allowed."""
    assert is_held(gone, known, there, share_max) is held


def test_names_outlive_the_process(tmp_path: Path) -> None:
    """What was found is known to the next process; what was gone and not settled is gone anew."""
    names = Names(tmp_path / "names.sqlite")
    names.found([b"b", b"a", b"\xff"])
    names.note_gone([b"a"], 7 * NODES_MAX)
    names.close()
    again = Names(tmp_path / "names.sqlite")
    assert again.after(None, 10) == [b"a", b"b", b"\xff"]
    assert again.after(b"a", 1) == [b"b"]
    assert again.count() == 3 and again.count_gone(7 * NODES_MAX) == 0
    again.close()


def test_a_name_goes_once_its_deletion_is_settled(tmp_path: Path) -> None:
    """Not before, and not where its key was found again meanwhile, or is gone by a later pass alone."""
    names = Names(tmp_path / "names.sqlite")
    names.found([b"a", b"b", b"c", b"d"])
    names.note_gone([b"a", b"b", b"c"], 1)
    assert names.gone_after(None, 2, 1) == [b"a", b"b"]
    assert names.gone_after(b"b", 2, 1) == [b"c"]
    names.found([b"b"])
    names.note_gone([b"c"], 2)
    assert names.after(None, 9) == [b"a", b"b", b"c", b"d"]
    names.forget(1)
    assert names.after(None, 9) == [b"b", b"c", b"d"]
    names.forget(2)
    assert names.after(None, 9) == [b"b", b"d"]
    names.close()


def test_what_is_held_stays(tmp_path: Path) -> None:
    """Names whose deletion is held are looked for by the next pass again."""
    names = Names(tmp_path / "names.sqlite")
    names.found([b"a"])
    names.note_gone([b"a"], 1)
    names.spare(1)
    names.forget(1)
    assert names.after(None, 9) == [b"a"]
    names.close()


def test_names_of_keys_that_are_delivered_stay(tmp_path: Path) -> None:
    """An invoker that delivers a value keeps its name: where a pass did not find it, and where it was forgotten."""
    names, invoker = Names(tmp_path / "names.sqlite"), Names(tmp_path / "names.sqlite", None)
    names.found([b"a", b"b", b"c"])
    names.note_gone([b"a", b"b"], 1)
    invoker.keep([b"a", b"c"])
    names.forget(1)
    assert names.after(None, 9) == [b"a", b"c"]
    invoker.keep([b"%d" % number for number in range(700)] + [b"a", b"c"])
    assert names.count() == 702
    names.note_gone([b"a"], 2)
    Names(tmp_path / "names.sqlite", None).close()
    assert names.count_gone(2) == 1
    names.close()
    invoker.close()


def test_damaged_names_are_moved_aside(tmp_path: Path) -> None:
    """A torn file is kept for whoever wants to look, and names begin anew."""
    path = tmp_path / "names.sqlite"
    path.write_bytes(b"SQLite format 3\0" + b"torn" * 1_000)
    names = Names(path)
    assert names.count() == 0
    assert Path(f"{path}.damaged").exists()
    names.close()


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path and the reason are named; nothing raises what nobody expects."""
    (tmp_path / "file").touch()
    with pytest.raises(NamesBroken, match=r"file.*can't be kept"):
        Names(tmp_path / "file" / "names.sqlite")
    names = Names(tmp_path / "names.sqlite")

    class Full:
        def __enter__(self) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(names, "_connection", Full())
    with pytest.raises(NamesBroken, match="disk is full"):
        names.found([b"a"])
    assert names_module.NamesBroken is NamesBroken


def test_all_nodes_share_names(tmp_path: Path) -> None:
    """Whoever takes over a slot knows its names; what one found gone and another finds again stays known."""
    assert path_of(str(tmp_path)).parent == tmp_path
    one, other = Names(tmp_path / "names.sqlite", 0), Names(tmp_path / "names.sqlite", 1)
    one.found([b"a", b"b"])
    assert other.after(None, 9) == [b"a", b"b"]
    one.note_gone([b"a", b"b"], NODES_MAX)
    other.found([b"b"])
    one.forget(NODES_MAX)
    assert other.after(None, 9) == [b"b"]
    one.note_gone([b"b"], NODES_MAX)
    other.close()
    other = Names(tmp_path / "names.sqlite", 1)
    assert other.count_gone(NODES_MAX) == 1, "what another node found gone is its own"
    one.close()
    other.close()


def test_what_does_not_go_with_scans_is_told(tmp_path: Path) -> None:
    """Each with what to do: a route that would deliver everything by each pass, one that can't begin now, a replica."""
    file = tmp_path / "engine.toml"
    file.write_text(
        '[redis]\nread_from = "replica"\ndatabases = [0, 1]\n[capture]\nsource = "scan"\n'
        '[original]\nmapping_prefix = "map:"\n'
        '[[routes]]\nname = "a"\nfunction = "f"\n'
    )
    with pytest.raises(ConfigError) as raised:
        load_settings(str(file), {"AWS_REGION": "eu-west-1"}, {})
    told = str(raised.value)
    for what in (
        "skip_unchanged",
        "starting_position",
        "redis.read_from",
        "redis.databases",
        "original.mapping_prefix",
    ):
        assert what in told
