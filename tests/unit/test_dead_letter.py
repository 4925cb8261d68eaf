from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from engine.delivery.dead_letter import DeadLetterFile
from engine.delivery.lane import Entry
from engine.delivery.settle import Frame
from engine.model import Change


def entry(key: bytes) -> Entry:
    return Change(key, "hset", 1, 1_000), Frame(0)


def test_a_dead_letter_names_the_key_and_the_reason(tmp_path: Path) -> None:
    """One line a record, with all that is needed to deliver it again; binary keys are lossless."""
    path = tmp_path / "new folder" / "letters.jsonl"
    file = DeadLetterFile(str(path), 10_000)
    assert file.write("carts", "f", [entry(b"cart:1"), entry(b"\xff")], 3, "it broke", 2_000) == ""
    first, second = map(orjson.loads, path.read_bytes().splitlines())
    assert first == {
        "at_ms": 2_000,
        "route": "carts",
        "function": "f",
        "id": "cart:1",
        "event": "hset",
        "captured_at_ms": 1_000,
        "attempts": 3,
        "reason": "it broke",
    }
    assert (second["id"], second["id_encoding"]) == ("/w==", "base64")


def test_a_full_file_refuses_and_stays_whole(tmp_path: Path) -> None:
    """Past its bound the file takes nothing more: the records stay with the engine."""
    path = tmp_path / "letters.jsonl"
    file = DeadLetterFile(str(path), 200)
    assert file.write("r", "f", [entry(b"a")], 1, "reason", 1) == ""
    before = path.read_bytes()
    assert "dead_letter_bytes_max" in file.write("r", "f", [entry(b"b")], 1, "reason", 1)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder that is a file: a reason comes back, nothing is raised."""
    (tmp_path / "file").write_text("")
    assert "file" in DeadLetterFile(str(tmp_path / "file" / "letters"), 1_000).write("r", "f", [entry(b"a")], 1, "", 1)


def test_a_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes only a part of the lines, the part is taken back and the write is refused."""
    path = tmp_path / "letters.jsonl"
    file = DeadLetterFile(str(path), 10_000)
    assert file.write("r", "f", [entry(b"a")], 1, "reason", 1) == ""
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    assert "disk is full" in file.write("r", "f", [entry(b"b")], 1, "reason", 1)
    assert path.read_bytes() == before
