from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import orjson
import pytest

from engine.delivery.failures.dead_letter import DeadLetter, FileSink, encode_letter, letters_of
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Cause, Entry
from engine.model import Failure, Outcome


def entry(key: bytes) -> Entry:
    return key, Cause("hset", 1_000, Frame(0))


def letter(key: str = "cart:1") -> DeadLetter:
    return DeadLetter(2_000, "carts", "f", key, "hset", 1_000, 3, "it broke", record=msgspec.Raw(b'{"body": null}'))


def test_a_full_file_refuses_and_stays_whole(tmp_path: Path) -> None:
    """Past its bound the file takes nothing more: the records stay with the engine, and the remedy is told."""
    path = tmp_path / "letters.jsonl"
    sink = FileSink(str(path), 200)
    assert sink.write([letter()]) == ""
    before = path.read_bytes()
    problem = sink.write([letter()])
    assert "dead_letter_bytes_max" in problem
    assert "engine redrive" in problem
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder that is a file: a reason comes back, nothing is raised."""
    (tmp_path / "file").write_text("")
    assert "file" in FileSink(str(tmp_path / "file" / "letters"), 1_000).write([letter()])


def test_the_folder_is_made(tmp_path: Path) -> None:
    """The first letter makes the folder that the settings name."""
    path = tmp_path / "new" / "folder" / "letters.jsonl"
    assert FileSink(str(path), 1_000).write([letter()]) == ""
    assert path.read_bytes() == encode_letter(letter()) + b"\n"


def test_a_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes only a part of the lines, the part is taken back and the write is refused."""
    path = tmp_path / "letters.jsonl"
    sink = FileSink(str(path), 10_000)
    assert sink.write([letter()]) == ""
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    assert "disk is full" in sink.write([letter("b")])
    assert path.read_bytes() == before


def test_letters_hold_the_record_as_it_was_sent() -> None:
    """Record for record, byte for byte, with the failure's kind; a value that could not be read leaves none."""
    outcome = Outcome(Failure.FUNCTION_ERROR, reason="it broke")
    sent = b'{"id":"cart:1","body":"{\\"tea\\":1.0}","version":1763890000123456}'
    letters = letters_of("carts", "f", [entry(b"cart:1"), entry(b"\xff")], [sent, None], 3, outcome, 2_000)
    first, second = map(encode_letter, letters)
    assert first.endswith(b'"record":' + sent + b"}")
    assert orjson.loads(first)["failure"] == "function_error"
    assert orjson.loads(second) == {
        "at_ms": 2_000,
        "route": "carts",
        "function": "f",
        "id": "/w==",
        "event": "hset",
        "captured_at_ms": 1_000,
        "attempts": 3,
        "reason": "it broke",
        "id_encoding": "base64",
        "failure": "function_error",
        "db": 0,
    }
    assert msgspec.json.decode(second, type=DeadLetter) == letters[1]


def test_a_letter_of_an_unsent_record_names_no_failure() -> None:
    """Where nothing was invoked there is a reason, and no kind of failure."""
    (one,) = letters_of("r", "f", [entry(b"a")], [None], 0, Outcome(reason="cannot be read"), 1)
    assert "failure" not in orjson.loads(encode_letter(one))


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    """Letters hold the cache's values: nobody else reads them."""
    path = tmp_path / "letters.jsonl"
    assert FileSink(str(path), 10_000).write([letter()]) == ""
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """Half a line that a crash of the host left at the end stays alone on its line."""
    path = tmp_path / "letters.jsonl"
    path.write_bytes(b'{"at_ms": 1, "rou')
    assert FileSink(str(path), 10_000).write([letter()]) == ""
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"at_ms": 1, "rou'
    assert orjson.loads(whole)["id"] == "cart:1"


def test_large_writes_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes several system calls is there as a whole, or, when a later one finds the disk full, not at all."""
    path = tmp_path / "letters.jsonl"
    sink = FileSink(str(path), 100_000_000)
    letters = [letter("k" * 700_000) for _ in range(5)]
    assert sink.write(letters) == ""
    before = path.read_bytes()
    assert before == b"".join(encode_letter(one) + b"\n" for one in letters)
    calls = []
    real = os.write

    def full_at_second(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full_at_second)
    assert "No space left" in sink.write(letters)
    assert len(calls) == 2
    assert path.read_bytes() == before


def test_a_file_renamed_while_waiting_for_it_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waited for the lock of a file that was claimed meanwhile begins a new one."""
    path, claimed = tmp_path / "letters.jsonl", tmp_path / "claimed"
    sink = FileSink(str(path), 10_000)
    assert sink.write([letter("first")]) == ""
    real = fcntl.flock

    def claimed_meanwhile(descriptor: int, operation: int) -> None:
        if not claimed.exists():
            path.rename(claimed)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", claimed_meanwhile)
    assert sink.write([letter("second")]) == ""
    assert [orjson.loads(line)["id"] for line in claimed.read_bytes().splitlines()] == ["first"]
    assert [orjson.loads(line)["id"] for line in path.read_bytes().splitlines()] == ["second"]
