from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.backlog.shelf import Shelf
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import DURABLE, Frame, Ledger
from engine.delivery.lanes.work import Batch, Cause
from engine.model import Run

UNIX_MS = 1_000_000


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    backlog = Backlog(str(tmp_path / "backlog"), 0, 1, 1 << 26)
    assert backlog.open() == ""
    yield backlog
    backlog.close()


@pytest.fixture
def shelf(backlog: Backlog) -> Shelf:
    return Shelf(backlog, "carts")


@pytest.fixture
def lane() -> Lane:
    return Lane(batch_size=2, window_ms=0, slots=3)


def mark(lane: Lane, ledger: Ledger, end: int, *keys: bytes, event: str = "hset") -> Frame:
    frame = ledger.add(end)
    lane.add([Run(event, 1, 500, [*keys])], frame, 0)
    return frame


def rows(backlog: Backlog) -> dict[bytes, BacklogRow]:
    return {row.key: row for row in backlog.take("carts", 100, UNIX_MS, set())}


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("engine.delivery.backlog.file.BacklogFile.transaction", full)


def test_what_waits_moves_out_of_memory(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """The oldest keys leave memory, have a row, and hold no ring any more; the rest stays."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a", b"b")
    mark(lane, ledger, 20, b"c")
    assert shelf.move_waiting(lane, 2) == ""
    assert list(lane.waiting) == [b"c"]
    assert set(rows(backlog)) == {b"a", b"b"}
    assert ledger.settled() == 10


def test_what_is_retried_gets_a_row_and_stays(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """A batch that waits for its next attempt lets go of its ring, keeps its place, and its attempts are on disk."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a", b"b")
    batch = lane.take(0)
    assert batch is not None
    batch.attempts = 3
    lane.retry(batch, 50)
    assert shelf.free_retries(lane) == ""
    assert ledger.settled() == 10
    assert lane.retrying_keys == 2
    assert lane.in_flight == {b"a", b"b"}
    assert {row.attempts for row in rows(backlog).values()} == {3}


def test_what_is_held_goes_with_what_is_in_flight(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """A key in flight and its newer change both let go; the row names the newer event."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a")
    batch = lane.take(0)
    assert batch is not None
    mark(lane, ledger, 20, b"a", event="del")
    assert shelf.free_flying(lane, [batch]) == ""
    assert ledger.settled() == 20
    assert rows(backlog)[b"a"].event == "del"
    assert batch.entries[0][1].frame is lane.held[b"a"].frame is DURABLE


def test_an_answer_still_finds_its_records(lane: Lane, shelf: Shelf) -> None:
    """What was sent is the same entry as what is in flight, also after it has moved to disk."""
    mark(lane, Ledger(), 10, b"a", b"b")
    batch = lane.take(0)
    assert batch is not None
    batch.sent = batch.entries[::-1]
    assert shelf.free_flying(lane, [batch]) == ""
    assert batch.sent == batch.entries[::-1]
    assert all(cause.frame is DURABLE for _, cause in batch.sent)


def test_a_row_goes_when_its_key_is_delivered(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """A settled delivery forgets the row, unless the key has changed meanwhile."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a", b"b")
    batch = lane.take(0)
    assert batch is not None
    assert shelf.free_flying(lane, [batch]) == ""
    mark(lane, ledger, 20, b"b")
    shelf.settled(lane, batch.entries)
    lane.settle(batch.entries)
    assert set(rows(backlog)) == {b"b"}
    assert list(lane.waiting) == [b"b"]
    assert ledger.settled() == 10


@pytest.mark.parametrize("moves", ["waiting", "far", "retries", "flying"])
def test_a_disk_that_refuses_changes_nothing(
    lane: Lane, shelf: Shelf, backlog: Backlog, monkeypatch: pytest.MonkeyPatch, moves: str
) -> None:
    """Where nothing can be kept on disk, the ring is still held and every key is where it was."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a")
    flying = lane.take(0)
    assert flying is not None
    mark(lane, ledger, 20, b"a", b"b")
    retried = lane.take(0)
    assert retried is not None
    lane.retry(retried, 50)
    mark(lane, ledger, 30, b"c")
    fill(monkeypatch)
    if moves == "waiting":
        problem = shelf.move_waiting(lane, 10)
    elif moves == "far":
        problem = shelf.free_waiting(lane, 10, after=0, waiting_keys_max=10)
    else:
        problem = shelf.free_retries(lane) if moves == "retries" else shelf.free_flying(lane, [flying])
    assert "full" in problem
    assert ledger.settled() is None
    assert (set(lane.waiting), set(lane.held), lane.in_flight) == ({b"c"}, {b"a"}, {b"a", b"b"})
    assert len(shelf) == 0


def test_rows_come_back_once(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """A key on disk is not taken while memory has it, and a row that was taken stays until it is settled."""
    assert shelf.put([(key, Cause("hset", 500, DURABLE)) for key in (b"a", b"b", b"c")]) == ""
    mark(lane, Ledger(), 10, b"a")
    for _ in range(2):
        shelf.take_back(lane, 10, 0, UNIX_MS)
    assert sorted(lane.waiting) == [b"a", b"b", b"c"]
    assert len(shelf) == 3
    batch = lane.take(0)
    assert batch is not None
    shelf.settled(lane, batch.entries)
    assert len(shelf) == 1


def test_failed_rows_come_back_as_retries(lane: Lane, shelf: Shelf) -> None:
    """Rows with attempts keep them, and rows of different attempts never share a batch."""
    entries = [(key, Cause("hset", 500, DURABLE)) for key in (b"a", b"b", b"c")]
    assert shelf.put(entries[:2], attempts=1) == ""
    assert shelf.put(entries[2:], attempts=2) == ""
    shelf.take_back(lane, 10, 0, UNIX_MS)
    found = {batch.attempts: {key for key, _ in batch.entries} for _, _, batch in lane.retries}
    assert found == {1: {b"a", b"b"}, 2: {b"c"}}
    assert lane.in_flight == {b"a", b"b", b"c"}
    assert not lane.waiting


def test_rows_wait_until_they_are_due(lane: Lane, shelf: Shelf) -> None:
    """A row is not taken before its time, and is then."""
    assert shelf.put([(b"a", Cause("hset", 500, DURABLE))], due_ms=UNIX_MS + 10) == ""
    shelf.take_back(lane, 10, 0, UNIX_MS + 9)
    assert not lane.waiting
    shelf.take_back(lane, 10, 0, UNIX_MS + 10)
    assert list(lane.waiting) == [b"a"]


def test_routes_share_no_row(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """The same key of two routes is two rows: one's delivery settles nothing of the other."""
    other = Shelf(backlog, "people")
    entry = (b"a", Cause("hset", 500, DURABLE))
    assert (shelf.put([entry]), other.put([entry])) == ("", "")
    shelf.settled(lane, [entry])
    assert (len(shelf), len(other)) == (0, 1)


def test_a_second_row_names_the_newest_event() -> None:
    """What merges into a key on disk holds its own frame until the newer event is there too."""
    lane, ledger = Lane(batch_size=2, window_ms=0, slots=1), Ledger()
    lane.waiting[b"a"] = Cause("hset", 500, DURABLE)
    mark(lane, ledger, 10, b"a")
    assert ledger.settled() == 10
    mark(lane, ledger, 20, b"a", event="del")
    assert ledger.settled() is None
    batch = lane.take(0)
    assert isinstance(batch, Batch)
    assert batch.entries[0][1].event == "del"
    lane.settle(batch.entries)
    assert ledger.settled() == 20


def test_what_waits_far_behind_lets_go_of_its_ring(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """A slow lane's keys, but for the next ones, get a row and stay: they take in later changes without the disk."""
    ledger = Ledger()
    mark(lane, ledger, 10, b"a", b"b")
    mark(lane, ledger, 20, b"c", b"d")
    assert shelf.free_waiting(lane, 10, after=1, waiting_keys_max=4) == ""
    assert set(rows(backlog)) == {b"b", b"c", b"d"}
    assert list(lane.waiting) == [b"a", b"b", b"c", b"d"]
    assert ledger.settled() is None
    batch = lane.take(0)
    assert batch is not None
    shelf.settled(lane, batch.entries)
    lane.settle(batch.entries)
    assert ledger.settled() == 20
    later = mark(lane, ledger, 30, b"c")
    assert later.open == 0
    mark(lane, ledger, 40, b"d", event="del")
    assert ledger.settled() == 30


def test_what_is_too_much_for_memory_leaves_it(lane: Lane, shelf: Shelf, backlog: Backlog) -> None:
    """Past the bound a slow lane's keys are on disk alone."""
    mark(lane, Ledger(), 10, b"a", b"b", b"c")
    assert shelf.free_waiting(lane, 1, after=1, waiting_keys_max=2) == ""
    assert list(lane.waiting) == [b"a", b"c"]
    assert set(rows(backlog)) == {b"b"}
