"""A settings file that is watched: each change counts once, however it was made, and only once it is whole."""

from __future__ import annotations

from pathlib import Path

from engine.supervision.topology.watched import LOOK_MS, WatchedFile


def looks(watched: WatchedFile, times: int = 3) -> list[bool]:
    """Look so often, each time when a look is due."""
    looks.now_ms = getattr(looks, "now_ms", 0)
    found = []
    for _ in range(times):
        looks.now_ms += LOOK_MS
        found.append(watched.has_changed(looks.now_ms))
    return found


def test_a_change_counts_once_and_when_it_rests(tmp_path: Path) -> None:
    """What was written counts at the second look that sees it, and then no more."""
    file = tmp_path / "engine.toml"
    file.write_text("a")
    watched = WatchedFile(file)
    assert looks(watched) == [False, False, False]
    file.write_text("longer")
    assert looks(watched) == [False, True, False]


def test_what_goes_on_changing_waits(tmp_path: Path) -> None:
    """A file that is still being written is not read in the middle."""
    file = tmp_path / "engine.toml"
    file.write_text("a")
    watched = WatchedFile(file)
    for count in range(2, 5):
        file.write_text("a" * count)
        assert looks(watched, 1) == [False]
    assert looks(watched, 1) == [True]


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """A mounted ConfigMap changes by a link to another folder; the path stays the same."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "engine.toml").write_text("same")
    data, draft = tmp_path / "..data", tmp_path / "..draft"
    data.symlink_to("first")
    (tmp_path / "engine.toml").symlink_to("..data/engine.toml")
    watched = WatchedFile(tmp_path / "engine.toml")
    draft.symlink_to("second")
    draft.replace(data)
    assert looks(watched) == [False, True, False]


def test_a_file_that_is_away_is_no_change(tmp_path: Path) -> None:
    """While a file is away nothing is read; when it is back as another one, it is."""
    file = tmp_path / "engine.toml"
    file.write_text("a")
    watched = WatchedFile(file)
    file.unlink()
    assert looks(watched) == [False, False, False]
    file.write_text("another")
    assert looks(watched) == [False, True, False]


def test_it_looks_once_a_second(tmp_path: Path) -> None:
    """The loop turns many times a second, and does not ask the file system each time."""
    file = tmp_path / "engine.toml"
    file.write_text("a")
    watched = WatchedFile(file)
    assert not watched.has_changed(LOOK_MS)
    file.write_text("longer")
    assert not any(watched.has_changed(LOOK_MS + offset) for offset in range(LOOK_MS))


def test_no_file_never_changes() -> None:
    """Without a file, or where it is not wanted, nothing is ever read."""
    assert looks(WatchedFile(None)) == [False, False, False]
