from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.delivery.backlog import file as backlog_file
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
    take_all,
)

ROOT = Path(__file__).parents[2]


def test_a_disk_that_refuses_is_told_and_tried_again(tmp_path: Path) -> None:
    """Where a file can't grow, nothing of a put is kept and nothing else is lost; once it can, all goes on."""
    script = f"""
import resource
from engine.delivery.backlog.backlog import Backlog, BacklogRow
def rows(start): return [BacklogRow(b"key:%06d" % n, "hset", 1) for n in range(start, start + 500)]
backlog = Backlog({str(tmp_path)!r}, 0, 1, {BYTES_MAX})
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
kept = 0
while not (reason := backlog.put("r", rows(kept))):
    kept += 500
assert "can't be used" in reason, reason
assert backlog.count("r") == kept > 0
backlog.remove("r", [b"key:%06d" % n for n in range(100)])
backlog.flush()
assert backlog.count("r") == kept - 100
assert len(backlog.take("r", 10**6, 1, ())) == kept - 100
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert backlog.put("r", rows(kept)) == ""
taken = sorted(row.key for row in backlog.take("r", 10**6, 1, ()))
assert taken == [b"key:%06d" % n for n in range(100, kept + 500)]
backlog.close()
print(kept)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kept = int(done.stdout.splitlines()[-1])
    again = backlog_in(tmp_path)
    assert again.open() == ""
    assert again.damaged == []
    assert again.count("r") == kept + 400
    again.close()


KILLED = """
import sys
from engine.delivery.backlog.backlog import Backlog, BacklogRow
backlog = Backlog(sys.argv[1], 0, 1, 1 << 30)
for number in range(10**9):
    rows = [BacklogRow(b"%d:%d" % (n, number), "hset", 1) for n in range(40)]
    assert backlog.put("r", rows) == ""
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 60, 250])
def test_what_was_put_outlives_a_kill(tmp_path: Path, lines: int) -> None:
    """A process killed at any moment has kept all that it was told is kept, and of its last put all or nothing."""
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.stdout.close()
    assert child.wait(10) == -signal.SIGKILL
    told = len([line for line in said if line.endswith(b"\n")])
    assert told >= lines
    backlog = backlog_in(tmp_path)
    assert backlog.open() == ""
    assert backlog.damaged == []
    found = keys_of(take_all(backlog))
    assert len(found) == backlog.count("r")
    puts = sorted({int(key.rpartition(b":")[2]) for key in found})
    assert puts == list(range(len(puts)))
    assert told <= len(puts) <= told + 1
    assert len(found) == 40 * len(puts)
    backlog.close()


def zero_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4_096)
        file.write(bytes(4 * 4_096))


def write_foreign(path: Path) -> None:
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE dirty(route TEXT, key BLOB)")
    foreign.commit()
    foreign.close()


def write_bad_row(column: str, value: object) -> object:
    def write(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(f"UPDATE dirty SET {column} = {value} WHERE key = ?", (b"key:000000",))
        connection.commit()
        connection.close()

    return write


DAMAGES = {
    "garbage": lambda path: path.write_bytes(random.Random(7).randbytes(50_000)),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: 5 * 4_096 + 17]),
    "zeroed pages": zero_pages,
    "another database": write_foreign,
    "a key that is text": write_bad_row("key", "'text'"),
    "an event that is no text": write_bad_row("event", "x'ff'"),
    "an event that is not UTF-8": write_bad_row("event", "CAST(x'ff' AS TEXT)"),
    "a time that is missing": write_bad_row("captured_ms", "NULL"),
}


@pytest.mark.parametrize("is_checked", [True, False], ids=["checked at open", "found when read"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, is_checked: bool
) -> None:
    """Damage is named and out of the way, whenever it shows; no key is invented, and new ones are taken at once."""
    if not is_checked:
        monkeypatch.setattr(backlog_file, "CHECKED_BYTES_MAX", 0)
    path = filled(tmp_path, SOME)
    DAMAGES[damage](path)
    before = path.read_bytes()
    backlog = backlog_in(tmp_path)
    assert backlog.open() == ""
    known = {b"key:%06d" % n for n in range(2_000)}
    for turn in range(3):
        assert set(keys_of(take_all(backlog, now_ms=NOW_MS + turn * 1_000))) <= known
    assert len(backlog.damaged) == 1
    assert Path(backlog.damaged[0]).read_bytes()[:4_096] == before[:4_096]
    assert backlog.routes() == {}
    assert backlog.put("r", [row(9_999)]) == ""
    assert take_all(backlog, now_ms=NOW_MS + 4_000) == [row(9_999)]
    backlog.close()


def test_a_put_into_a_damaged_file_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller of a put sees no damage: its rows are durable in a new file, and the old one is named."""
    path = filled(tmp_path, SOME)
    backlog = backlog_in(tmp_path)
    path.write_bytes(b"no database at all, but long enough for a header" * 100)
    assert backlog.put("r", [row(1)]) == ""
    assert len(backlog.damaged) == 1
    backlog.close()
    again = backlog_in(tmp_path)
    assert again.open() == ""
    assert take_all(again) == [row(1)]
    again.close()


def test_damage_is_named_until_its_gap_is_declared(tmp_path: Path) -> None:
    """A process that dies before it has declared the gap leaves it to its successor."""
    filled(tmp_path, SOME).write_bytes(b"garbage" * 1_000)
    for _ in range(2):
        backlog = backlog_in(tmp_path)
        assert backlog.open() == ""
        assert len(backlog.damaged) == 1
        backlog.close()
    backlog.repaired()
    again = backlog_in(tmp_path)
    assert again.open() == ""
    assert again.damaged == []
    assert len(list(tmp_path.glob("*.repaired"))) == 1


def test_a_damaged_file_of_old_is_the_first_invokers_to_repair(tmp_path: Path) -> None:
    """A file that can't be moved because it is damaged holds up no start, and is not forgotten."""
    filled(tmp_path, SOME).write_bytes(b"garbage" * 1_000)
    assert rehome(str(tmp_path), 2, BYTES_MAX) == ""
    homes = homes_in(tmp_path, 2)
    assert [len(home.damaged) for home in homes] == [1, 0]
    assert not (tmp_path / FILE).exists()
