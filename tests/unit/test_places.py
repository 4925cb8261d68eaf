"""Paths that the engine writes to are tried before anything is written; nothing is left beside another's path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config import DeliverySettings, Settings, SupervisionSettings
from engine.supervision.errands import places
from engine.supervision.errands.places import examine_places
from engine.supervision.progress.checkpoint import Checkpoint, CheckpointFile

NAMES = {
    "checkpoint_file": "checkpoint",
    "status_file": "status.json",
    "dead_letter_file": "dead_letters.jsonl",
    "backlog_folder": "backlog",
}


def problems(folder: Path, **changes: str | Path) -> list[str]:
    paths = {name: str(changes.get(name, folder / "state" / last)) for name, last in NAMES.items()}
    settings = Settings(
        supervision=SupervisionSettings(checkpoint_file=paths["checkpoint_file"], status_file=paths["status_file"]),
        delivery=DeliverySettings(dead_letter_file=paths["dead_letter_file"], backlog_folder=paths["backlog_folder"]),
    )
    return [str(problem) for problem in examine_places(settings)]


def test_a_folder_that_is_not_there_yet_is_well(tmp_path: Path) -> None:
    """A first start finds nothing wrong, and the trial leaves nothing behind."""
    assert problems(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_an_engine_has_left_is_its_own(tmp_path: Path) -> None:
    """A checkpoint, letters, a status and a backlog of an engine are no trouble; nor is a torn file beside its lock."""
    state = tmp_path / "state"
    state.mkdir()
    CheckpointFile(str(state / "checkpoint")).write(Checkpoint("here", 1))
    (state / "status.json").write_text('{"pid": 1}')
    (state / "dead_letters.jsonl").write_text('{"reason": "torn')
    (state / "backlog").mkdir()
    (state / "backlog" / "invoker-1-of-1.sqlite").touch()
    assert problems(tmp_path) == []
    (state / "checkpoint").write_bytes(b"\x00garbage\x00garbage")
    (state / "checkpoint.lock").touch()
    assert problems(tmp_path) == []


@pytest.mark.parametrize("setting", NAMES)
def test_a_file_of_somebody_else_is_refused(tmp_path: Path, setting: str) -> None:
    """A path that names another program's file is an error by its setting's name; the file stays as it is, alone."""
    foreign = tmp_path / "passwd"
    foreign.write_text("root:x:0:0:root:/root:/bin/bash\n")
    (found,) = problems(tmp_path, **{setting: foreign})
    assert setting in found and str(foreign) in found
    assert list(tmp_path.iterdir()) == [foreign]


@pytest.mark.parametrize("setting", NAMES)
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, setting: str) -> None:
    """/proc takes no files, a file holds none, and a folder is none."""
    (tmp_path / "file").touch()
    for path in ("/proc/x", tmp_path / "file" / "below"):
        (found,) = problems(tmp_path, **{setting: path})
        assert setting in found
    if setting != "backlog_folder":
        (found,) = problems(tmp_path, **{setting: tmp_path})
        assert "is not a file" in found


def test_one_path_for_two_things_is_refused(tmp_path: Path) -> None:
    """A checkpoint and a status in one file would take turns to destroy each other."""
    (found,) = problems(tmp_path, status_file=tmp_path / "state" / "checkpoint")
    assert "status_file" in found and "checkpoint_file too" in found


def test_a_file_of_another_user_and_a_full_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State of a service that root starts by hand would be lost to the service; no room is told before the start."""
    (tmp_path / "state").mkdir()
    CheckpointFile(str(tmp_path / "state" / "checkpoint")).write(Checkpoint("here", 1))
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    (found,) = problems(tmp_path)
    assert "checkpoint_file" in found and "runs as user 4242" in found
    monkeypatch.undo()
    monkeypatch.setattr(places, "ROOM_BYTES_MIN", 2**62)
    assert len(problems(tmp_path)) == 4 and all("has no room" in one for one in problems(tmp_path))
