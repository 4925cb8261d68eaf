"""State of a newer version is refused and left as it is; that of an older one is read."""

from __future__ import annotations

import os
import sqlite3
import zlib
from pathlib import Path

import pytest

from engine.cli import run_command
from engine.config import DeliverySettings, Settings, SupervisionSettings
from engine.delivery.backlog.file import VERSION, BacklogFile, TooNew, is_damage
from engine.supervision.errands.formats import newer_formats, state_files
from engine.supervision.progress.checkpoint import FORMAT, Checkpoint, CheckpointFile


def settings(folder: Path) -> Settings:
    return Settings(
        supervision=SupervisionSettings(checkpoint_file=str(folder / "checkpoint")),
        delivery=DeliverySettings(backlog_folder=str(folder / "backlog")),
    )


def verdicts(folder: Path) -> dict[str, str]:
    return {Path(one.path).name: one.verdict for one in state_files(settings(folder))}


def write_checkpoint(folder: Path, data: bytes) -> None:
    (folder / "checkpoint").write_bytes(b"%08x %s\n" % (zlib.crc32(data), data))


def backlog(folder: Path) -> Path:
    """Return a backlog's file, as an engine leaves it."""
    file = BacklogFile(folder / "backlog" / "invoker-1-of-1.sqlite", 1 << 24)
    file.connect().close()
    return file.path


def set_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()


def test_what_this_version_writes_is_current(tmp_path: Path) -> None:
    """Checkpoint and backlog of this version are read, and nothing stands against a start."""
    file = CheckpointFile(str(tmp_path / "checkpoint"))
    file.write(Checkpoint("here", 1, format=FORMAT))
    file.write(Checkpoint("here", 2, format=FORMAT))
    backlog(tmp_path)
    assert verdicts(tmp_path) == {
        "checkpoint": "current",
        "checkpoint.previous": "current",
        "invoker-1-of-1.sqlite": "current",
    }
    assert newer_formats(settings(tmp_path)) == []


def test_an_older_format_is_read(tmp_path: Path) -> None:
    """A checkpoint that has no number is of the first format; an older backlog is converted when it is opened."""
    write_checkpoint(tmp_path, b'{"scope":"here","watermark_ms":5}')
    set_version(backlog(tmp_path), VERSION - 1)
    assert set(verdicts(tmp_path).values()) == {"older"}
    assert newer_formats(settings(tmp_path)) == []


def test_a_newer_checkpoint_is_refused(tmp_path: Path) -> None:
    """A checkpoint with a higher number is named, with its number and the remedy."""
    write_checkpoint(tmp_path, b'{"scope":"here","format":%d}' % (FORMAT + 1))
    (problem,) = newer_formats(settings(tmp_path))
    assert f"has format {FORMAT + 1}" in str(problem)
    assert "start that version again" in str(problem)


def test_newer_held_deletions_are_refused(tmp_path: Path) -> None:
    """So is the file of held deletions, beside the checkpoint."""
    (tmp_path / "checkpoint.deletions").write_text('{"format":9}')
    (problem,) = newer_formats(settings(tmp_path))
    assert "checkpoint.deletions" in str(problem)


def test_a_newer_backlog_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A backlog with a higher number is named, is not opened, and is no damage that would be moved away."""
    path = backlog(tmp_path)
    set_version(path, VERSION + 1)
    content = path.read_bytes()
    (problem,) = newer_formats(settings(tmp_path))
    assert str(path) in str(problem)
    with pytest.raises(TooNew) as caught:
        BacklogFile(path, 1 << 24).connect()
    assert not is_damage(caught.value)
    assert path.read_bytes() == content


def test_damage_is_no_newer_format(tmp_path: Path) -> None:
    """A torn checkpoint and an empty backlog have no number; the start deals with them."""
    (tmp_path / "checkpoint").write_bytes(b"0000")
    (tmp_path / "backlog").mkdir()
    (tmp_path / "backlog" / "invoker-1-of-1.sqlite").touch()
    assert set(verdicts(tmp_path).values()) == {"unknown"}
    assert newer_formats(settings(tmp_path)) == []


def test_the_command_needs_the_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``engine upgrade-check`` has no routes and no server; it exits with 1 for a newer state, and says which file."""
    for name in [one for one in os.environ if one.startswith("ENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert run_command(["upgrade-check"]) == 0
    assert "the first one" in capsys.readouterr().out
    write_checkpoint(tmp_path, b'{"scope":"here","format":%d}' % (FORMAT + 1))
    assert run_command(["upgrade-check"]) == 1
    shown = capsys.readouterr()
    assert "newer" in shown.out
    assert str(tmp_path / "checkpoint") in shown.err
