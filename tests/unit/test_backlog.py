from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from engine.delivery.backlog import file as backlog_file
from engine.delivery.backlog import taking as taking_module
from engine.delivery.backlog import walk as backlog_walk
from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.backlog.file import BacklogFile
from engine.delivery.backlog.moves import rehome
from tests.backlog_rows import (
    BYTES_MAX,
    FILE,
    NOW_MS,
    SOME,
    backlog_in,
    filled,
    homes_in,
    keys_of,
    row,
    size_of,
    take_all,
)


def test_nothing_is_made_before_the_first_key(tmp_path: Path) -> None:
    """A healthy engine leaves nothing on disk; the first put makes a folder and a file for its user alone."""
    folder = tmp_path / "deep" / "backlog"
    backlog = backlog_in(folder)
    assert backlog.open() == ""
    assert backlog.take("r", 10, NOW_MS, ()) == []
    assert backlog.next_due_ms("r") is None
    backlog.remove("r", [b"r"])
    backlog.flush()
    assert backlog.put("r", []) == ""
    assert not folder.exists()
    assert backlog.put("r", [row(1)]) == ""
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    backlog.close()


def test_rows_survive_a_restart(tmp_path: Path) -> None:
    """What was put and not removed is there after reopening, byte for byte; what was removed is not."""
    keys = [b"", b"\x00", b"\xff\xfe", b"'; DROP TABLE dirty", b"k" * 100_000]
    backlog = backlog_in(tmp_path)
    rows = [BacklogRow(key, "expired", NOW_MS + number, number, number) for number, key in enumerate(keys)]
    assert backlog.put("first", rows) == ""
    assert backlog.put("second", rows[:2]) == ""
    backlog.remove("first", keys[1:2])
    backlog.close()
    again = backlog_in(tmp_path)
    assert again.open() == ""
    assert again.routes() == {"first": 4, "second": 2}
    assert sorted(take_all(again, "first"), key=lambda row: row.attempts) == [rows[0], *rows[2:]]
    assert take_all(again, "second") == rows[:2]
    again.close()


def test_a_put_is_on_the_disk_itself_when_it_returns(tmp_path: Path) -> None:
    """A put is synced at its commit, also behind removals, which need not be: it outlives a lost power supply."""
    full, normal = 2, 1
    file = BacklogFile(tmp_path / "backlog.sqlite", BYTES_MAX)
    with file.transaction(durable=False) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (normal,)
    with file.transaction(durable=True) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (full,)
    file.close()
    backlog = backlog_in(tmp_path / "folder")
    commits: list[str] = []
    assert backlog.put("r", [row(1), row(2)]) == ""
    held = backlog._file.connection
    assert held is not None
    held.set_trace_callback(commits.append)
    backlog.remove("r", [row(1).key])
    backlog.flush()
    assert held.execute("PRAGMA synchronous").fetchone() == (normal,)
    assert backlog.put("r", [row(3)]) == ""
    assert held.execute("PRAGMA synchronous").fetchone() == (full,)
    assert [sql for sql in commits if sql == "COMMIT" or "synchronous=" in sql][-2:] == [
        "PRAGMA synchronous=FULL",
        "COMMIT",
    ]
    backlog.close()


def test_a_newer_put_replaces_all_but_the_oldest_time(tmp_path: Path) -> None:
    """The newest event, due time and attempts hold; the age counts from the oldest change, also within one put."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [BacklogRow(b"r", "hset", 500, 9, 3)]) == ""
    assert backlog.put("r", [BacklogRow(b"r", "hdel", 400, 7, 2), BacklogRow(b"r", "del", 600, 0, 1)]) == ""
    assert backlog.count("r") == 1
    assert take_all(backlog) == [BacklogRow(b"r", "del", 400, 0, 1)]
    backlog.close()


def test_a_key_that_is_put_while_its_removal_waits_survives(tmp_path: Path) -> None:
    """A removal counts for the row that was there, not for the change that came after; its old time is gone."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [BacklogRow(b"r", "hset", 100), BacklogRow(b"b", "hset", 100)]) == ""
    backlog.remove("r", [b"r", b"b", b"unknown"])
    assert backlog.count("r") == 0
    assert take_all(backlog) == []
    assert backlog.put("r", [BacklogRow(b"r", "hset", 200)]) == ""
    backlog.flush()
    assert take_all(backlog) == [BacklogRow(b"r", "hset", 200)]
    assert backlog.routes() == {"r": 1}
    backlog.close()


def test_a_removal_counts_before_it_is_written(tmp_path: Path) -> None:
    """What was removed is never taken again, although the file has it still."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [row(1), row(2), row(3)]) == ""
    backlog.remove("r", [b"key:000002"])
    assert take_all(backlog) == [row(1), row(3)]
    assert backlog.count("r") == 2
    backlog.remove("r", [b"key:000001", b"key:000001"])
    assert take_all(backlog) == [row(3)]
    assert backlog.routes() == {"r": 1}
    backlog.close()


def test_take_goes_round_in_the_order_of_keys(tmp_path: Path) -> None:
    """Every due row has its turn before any has its second; what is skipped or not due is passed over."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [row(n, due_ms=NOW_MS + 1 if n == 4 else 0) for n in range(8)]) == ""
    turns = [keys_of(backlog.take("r", 3, NOW_MS, {b"key:000001"})) for _ in range(3)]
    assert turns == [
        [b"key:000000", b"key:000002", b"key:000003"],
        [b"key:000005", b"key:000006", b"key:000007"],
        [b"key:000000", b"key:000002", b"key:000003"],
    ]
    assert len(take_all(backlog)) == 7
    assert len(take_all(backlog, now_ms=NOW_MS + 1)) == 8
    backlog.close()


def test_due_times_are_known_without_another_look(tmp_path: Path) -> None:
    """Once a round found nothing, no row is read again before one is due, is put, or is let go."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [row(n, due_ms=NOW_MS + 1_000 + n) for n in range(500)]) == ""
    assert backlog.put("r", [row(500)]) == ""
    assert backlog.next_due_ms("r") == 0
    busy = {b"key:000500"}
    assert backlog.take("r", 10, NOW_MS, busy) == []
    statements: list[str] = []
    assert backlog._file.connection is not None
    backlog._file.connection.set_trace_callback(statements.append)
    for passed_ms in range(1_000):
        assert backlog.take("r", 10, NOW_MS + passed_ms, busy) == []
    assert statements == []
    assert keys_of(backlog.take("r", 10, NOW_MS + 1_000, busy)) == [b"key:000000"]
    assert keys_of(backlog.take("r", 1, NOW_MS, {b"key:000000"})) == [b"key:000500"], "it was let go"
    backlog.remove("r", [b"key:000500"])
    assert backlog.take("r", 10, NOW_MS, ()) == []
    assert backlog.next_due_ms("r") == NOW_MS + 1_000
    assert backlog.put("r", [row(7, due_ms=NOW_MS + 5)]) == ""
    assert backlog.next_due_ms("r") == NOW_MS + 5
    backlog.close()


def test_a_clock_that_was_set_back_delays_nothing(tmp_path: Path) -> None:
    """A row that is due later than any row could be is due at once after the next start; others keep their time."""
    backlog = backlog_in(tmp_path)
    late, soon = NOW_MS + 3_600_000, NOW_MS + 1_000
    assert backlog.put("r", [row(1, due_ms=late), row(2, due_ms=soon)]) == ""
    backlog.close()
    again = Backlog(str(tmp_path), 0, 1, BYTES_MAX)
    assert again.open(NOW_MS + 60_000) == ""
    assert [one.key for one in again.take("r", 10, NOW_MS, ())] == [row(1).key]
    assert {one.key for one in again.take("r", 10, soon, ())} == {row(1).key, row(2).key}
    again.close()


def test_rows_that_are_let_go_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows that were held when they were due, each look checks a few, and finds one that is free in the end."""
    monkeypatch.setattr(backlog_walk, "LOOKED_AT_MAX", 10)
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", SOME) == ""
    busy = {row.key for row in SOME}
    assert backlog.take("r", 10, NOW_MS, busy) == []
    assert backlog.next_due_ms("r") == NOW_MS + 1_000
    for number in (1_999, 0, 700):
        busy.remove(b"key:%06d" % number)
        looks = [backlog.take("r", 10, NOW_MS, busy) for _ in range(len(SOME) // 10 + 1)]
        assert [row(number)] in looks
        busy.add(b"key:%06d" % number)
    backlog.close()


def test_one_take_walks_a_bounded_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge backlog without much that is due holds up nobody: the next call goes on where the last one stopped."""
    monkeypatch.setattr(taking_module, "WALKED_ROWS_MAX", 100)
    backlog = backlog_in(tmp_path)
    last = BacklogRow(b"last", "hset", NOW_MS)
    assert backlog.put("r", [*(row(n, due_ms=NOW_MS + 1) for n in range(1_000)), last]) == ""
    calls = 0
    while not (rows := backlog.take("r", 10, NOW_MS, ())):
        assert backlog.next_due_ms("r") == 0
        calls += 1
        assert calls < 20
    assert rows == [last]
    assert calls >= 9
    backlog.close()


def test_long_keys_are_taken_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one take brings into memory is bounded in bytes, too."""
    monkeypatch.setattr(taking_module, "TAKEN_BYTES_MAX", 250_000)
    backlog = backlog_in(tmp_path)
    rows = [BacklogRow(b"%02d" % number + b"k" * 100_000, "hset", NOW_MS) for number in range(10)]
    assert backlog.put("r", rows) == ""
    turns = [len(take_all(backlog)) for _ in range(2)]
    assert turns == [3, 3]
    backlog.close()


def test_the_bound_holds_and_room_comes_back(tmp_path: Path) -> None:
    """At its bound a backlog refuses with the setting's name, keeps what it has, and takes more once some is gone."""
    bytes_max = 2_000_000
    backlog = backlog_in(tmp_path, bytes_max)
    kept = 0
    while not (reason := backlog.put("r", [row(n) for n in range(kept, kept + 1_000)])):
        kept += 1_000
        assert size_of(tmp_path) <= bytes_max
    assert "delivery.backlog_bytes_max" in reason
    assert kept > 10_000
    assert size_of(tmp_path) <= bytes_max
    assert backlog.count("r") == kept
    assert backlog.put("r", [row(n) for n in range(kept, kept + 1_000)]) == reason
    assert len(take_all(backlog)) == kept
    backlog.remove("r", [b"key:%06d" % n for n in range(2_000)])
    assert backlog.put("r", [row(n) for n in range(kept, kept + 1_000)]) == ""
    assert sorted(keys_of(take_all(backlog))) == [b"key:%06d" % n for n in range(2_000, kept + 1_000)]
    backlog.close()


def test_a_folder_that_can_not_be_made_is_a_reason(tmp_path: Path) -> None:
    """No error of the file system reaches the caller as an exception."""
    (tmp_path / "file").write_text("in the way")
    backlog = backlog_in(tmp_path / "file" / "backlog")
    assert backlog.open() == ""
    assert "can't be used" in backlog.put("r", [row(1)])
    assert backlog.take("r", 1, NOW_MS, ()) == []
    backlog.close()


def test_a_second_engine_on_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is locked while it is open; who was refused finds its rows once the other is gone."""
    monkeypatch.setattr(backlog_file, "BUSY_S", 0.01)
    first, second = backlog_in(tmp_path), backlog_in(tmp_path)
    assert first.put("r", [row(1)]) == ""
    assert "another engine" in second.open()
    assert second.next_due_ms("r") == 0
    assert second.take("r", 1, NOW_MS, ()) == []
    assert second.next_due_ms("r") == NOW_MS + 1_000
    first.close()
    assert second.take("r", 1, NOW_MS + 999, ()) == []
    assert second.take("r", 1, NOW_MS + 1_000, ()) == [row(1)]
    assert second.damaged == []
    second.close()


def test_an_emptied_backlog_gives_the_disk_back(tmp_path: Path) -> None:
    """Once a large backlog is delivered, its file is small again."""
    backlog = backlog_in(tmp_path)
    rows = [BacklogRow(b"%05d" % n + b"k" * 4_000, "hset", NOW_MS) for n in range(5_000)]
    assert backlog.put("r", rows) == ""
    assert size_of(tmp_path) > 16 << 20
    backlog.remove("r", keys_of(rows))
    backlog.flush()
    assert (tmp_path / FILE).stat().st_size < 1 << 20
    assert backlog.routes() == {}
    backlog.close()
    assert size_of(tmp_path) < 1 << 20


def test_rows_find_the_home_of_another_number_of_invokers(tmp_path: Path) -> None:
    """After a restart with other invokers each row is where its key's changes go, once, and no old file is left."""
    rows = [row(n, due_ms=n, attempts=n % 3) for n in range(12_000)]
    filled(tmp_path, rows)
    assert rehome(str(tmp_path / "nowhere"), 2, BYTES_MAX) == ""
    for invokers in (3, 2, 5):
        assert rehome(str(tmp_path), invokers, BYTES_MAX) == ""
        assert rehome(str(tmp_path), invokers, BYTES_MAX) == ""
        homes = homes_in(tmp_path, invokers)
        found = []
        for invoker, home in enumerate(homes):
            here = take_all(home, "r")
            assert all(crc32(row.key) % invokers == invoker for row in here)
            found += here
            home.close()
        assert sorted(found, key=lambda row: row.key) == rows
        assert {path.name for path in tmp_path.glob("*.sqlite")} == {
            f"invoker-{invoker + 1}-of-{invokers}.sqlite" for invoker in range(invokers)
        }


def test_a_move_that_fails_loses_nothing(tmp_path: Path) -> None:
    """Where the new homes are full, the old file stays, and a later start goes on."""
    rows = [row(n) for n in range(20_000)]
    filled(tmp_path, rows)
    assert "delivery.backlog_bytes_max" in rehome(str(tmp_path), 2, 300_000)
    assert (tmp_path / FILE).exists()
    assert rehome(str(tmp_path), 2, BYTES_MAX) == ""
    assert not (tmp_path / FILE).exists()
    homes = homes_in(tmp_path, 2)
    assert sum(home.count("r") for home in homes) == 20_000
    for home in homes:
        home.close()


def test_many_keys_are_removed_at_once(tmp_path: Path) -> None:
    """Of keys that are settled those that are on disk are forgotten, however many, whichever else are named."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [row(number) for number in range(0, 2_000, 2)]) == ""
    backlog.remove("r", [row(number).key for number in range(1_500)])
    backlog.remove("r", [row(0).key, row(1).key])
    assert backlog.count("r") == 250
    assert keys_of(take_all(backlog)) == keys_of([row(number) for number in range(1_500, 2_000, 2)])
    backlog.close()


def test_a_row_that_is_right_already_is_not_written(tmp_path: Path) -> None:
    """The same change again leaves the file as it is: under load most are such."""
    backlog = backlog_in(tmp_path)
    assert backlog.put("r", [row(number) for number in range(100)]) == ""
    connection = backlog._file.connection
    assert connection is not None
    before = connection.total_changes
    assert backlog.put("r", [row(number) for number in range(100)]) == ""
    assert connection.total_changes - before <= 1
    assert backlog.put("r", [row(7, attempts=2)]) == ""
    assert connection.total_changes - before <= 3
    backlog.close()
