"""Keys on disk that keep failing by themselves, and batches that were cut: what the disk remembers of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.backlog.file import _APPLICATION_ID
from engine.delivery.backlog.shelf import Shelf
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import halves
from engine.delivery.lanes.settle import DURABLE
from engine.delivery.lanes.work import Batch, Cause, Entry

UNIX_MS = 1_000_000
VERSION_1 = """
CREATE TABLE dirty(
    route TEXT, key BLOB, event TEXT, captured_ms INTEGER, due_ms INTEGER, attempts INTEGER, PRIMARY KEY(route, key)
) WITHOUT ROWID;
CREATE TABLE counts(route TEXT PRIMARY KEY, keys INTEGER) WITHOUT ROWID;
INSERT INTO dirty VALUES('carts', x'61', 'hset', 1, 0, 2);
INSERT INTO counts VALUES('carts', 1);
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backlog"


@pytest.fixture
def backlog(folder: Path) -> Iterator[Backlog]:
    backlog = Backlog(str(folder), 0, 1, 1 << 26)
    assert backlog.open() == ""
    yield backlog
    backlog.close()


def entries(*keys: bytes) -> list[Entry]:
    return [(key, Cause("hset", 500, DURABLE)) for key in keys]


def test_keys_set_aside_are_counted_over_a_restart(backlog: Backlog, folder: Path) -> None:
    """They are until they are delivered, or have another row that says nothing of a failure."""
    rows = [BacklogRow(key, "hset", 1, UNIX_MS, 5, "items: no") for key in (b"a", b"b", b"c")]
    assert backlog.put("carts", [*rows, BacklogRow(b"d", "hset", 1)]) == ""
    assert backlog.keys_set_aside() == 3
    backlog.remove("carts", [b"a"])
    assert backlog.put("carts", [BacklogRow(b"b", "hset", 1)]) == ""
    assert backlog.keys_set_aside() == 1
    backlog.close()
    again = Backlog(str(folder), 0, 1, 1 << 26)
    assert again.open() == ""
    assert again.keys_set_aside() == 1
    again.close()


def test_a_file_of_the_version_before_is_read(folder: Path) -> None:
    """Its rows are delivered, and it takes what it did not know."""
    folder.mkdir()
    with sqlite3.connect(folder / "invoker-1-of-1.sqlite") as connection:
        connection.executescript(f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version=1; {VERSION_1}")
    connection.close()
    backlog = Backlog(str(folder), 0, 1, 1 << 26)
    assert backlog.open() == ""
    assert backlog.damaged == []
    assert backlog.take("carts", 9, UNIX_MS, set()) == [BacklogRow(b"a", "hset", 1, 0, 2)]
    assert backlog.put("carts", [BacklogRow(b"b", "hset", 1, 0, 5, "items: no", 1)]) == ""
    assert backlog.keys_set_aside() == 1
    backlog.close()


def test_what_was_cut_does_not_meet_again_on_disk(backlog: Backlog) -> None:
    """Halves that waited there come back as halves: else a batch would be cut for ever, and the one never found."""
    shelf, lane = Shelf(backlog, "carts"), Lane(batch_size=9, window_ms=0, slots=1)
    for half in halves(Batch(entries(b"a", b"b", b"c", b"d"))):
        assert shelf.put_batch(half, half.entries) == ""
    shelf.take_back(lane, 9, 0, UNIX_MS)
    found = [[key for key, _ in batch.entries] for _, _, batch in lane.retries]
    assert sorted(found) == [[b"a", b"b"], [b"c", b"d"]]
    assert not lane.waiting


def test_keys_that_have_not_failed_are_found_among_those_that_have(backlog: Backlog) -> None:
    """Where memory holds enough that failed, only the others come; the walk of the failed ones stays where it was."""
    failed = [BacklogRow(b"%02d" % number, "hset", 1, 0, 1) for number in range(20)]
    assert backlog.put("carts", [*failed, BacklogRow(b"99", "hset", 1)]) == ""
    assert [row.key for row in backlog.take("carts", 5, UNIX_MS, set(), is_fresh=True)] == [b"99"]
    assert [row.key for row in backlog.take("carts", 2, UNIX_MS, set())] == [b"00", b"01"]
    assert backlog.take("carts", 5, UNIX_MS, {b"99"}, is_fresh=True) == []
    assert [row.key for row in backlog.take("carts", 2, UNIX_MS, set())] == [b"02", b"03"]
