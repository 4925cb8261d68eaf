"""Rows, backlogs and their files, for the tests of the backlog."""

from __future__ import annotations

from pathlib import Path

from engine.delivery.backlog.backlog import Backlog, BacklogRow

NOW_MS = 1_763_890_010_123
BYTES_MAX = 1 << 30
FILE = "invoker-1-of-1.sqlite"


def backlog_in(folder: Path, bytes_max: int = BYTES_MAX) -> Backlog:
    return Backlog(str(folder), 0, 1, bytes_max)


def row(number: int, **more: int) -> BacklogRow:
    return BacklogRow(b"key:%06d" % number, "hset", NOW_MS, **more)


SOME = [row(number) for number in range(2_000)]


def keys_of(rows: list[BacklogRow]) -> list[bytes]:
    return [row.key for row in rows]


def take_all(backlog: Backlog, route: str = "r", now_ms: int = NOW_MS) -> list[BacklogRow]:
    return backlog.take(route, 1_000_000, now_ms, ())


def filled(folder: Path, rows: list[BacklogRow]) -> Path:
    backlog = backlog_in(folder)
    assert backlog.put("r", rows) == ""
    backlog.close()
    return folder / FILE


def homes_in(folder: Path, invokers: int) -> list[Backlog]:
    homes = [Backlog(str(folder), invoker, invokers, BYTES_MAX) for invoker in range(invokers)]
    assert [home.open() for home in homes] == [""] * invokers
    return homes


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
