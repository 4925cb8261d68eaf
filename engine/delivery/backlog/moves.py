"""Moves rows of a backlog to new homes before a start: there are more or fewer invokers, or other databases."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

from msgspec.structs import replace

from engine.delivery.backlog.backlog import OF_SEVERAL, Backlog, path_of
from engine.delivery.backlog.file import BacklogFile
from engine.delivery.backlog.rows import BacklogRow, rows_of
from engine.observe.logs import get_logger
from engine.routing.databases import FIRST, Databases, named

_NAME = re.compile(rf"invoker-(\d+)-of-(\d+)({OF_SEVERAL})?\.sqlite")

log = get_logger(__name__)


def rehome(folder: str, invokers: int, bytes_max: int, databases: Databases = FIRST, were: int | None = None) -> str:
    """Move the rows of files that were written under another number of invokers, or for one database where there are
    several now, or the reverse; return "" or what went wrong.

    ``were`` is the database of keys that are known by their names alone, None for the present home. Rows of databases
    that are no longer captured are dropped.

    To be called while the folder is not in use. An old file is removed once all of its rows are durable in their new
    homes; after a crash or a failure before that, the next call moves them again. A damaged file is moved aside as
    one of the first invoker's, which lists it.
    """
    several = databases.are_several
    homes = [Backlog(folder, invoker, invokers, bytes_max, of_several=several) for invoker in range(invokers)]
    problems = []
    try:
        for path in sorted(Path(folder).glob("invoker-*.sqlite")):
            match = _NAME.fullmatch(path.name)
            if match is None or (int(match[2]) == invokers and bool(match[3]) == several):
                continue
            key_now = _key_now(databases, of_several=bool(match[3]), were=databases.home if were is None else were)
            file = BacklogFile(path, bytes_max, path_of(folder, 0, invokers, of_several=several).name)
            problems.append(_move(file, homes, key_now))
    except OSError as error:
        problems.append(f"the backlog {folder} can't be read: {error}")
    finally:
        for home in homes:
            home.close()
    return "; ".join(filter(None, problems))


def _key_now(databases: Databases, *, of_several: bool, were: int) -> Callable[[bytes], bytes | None]:
    """Return what converts a file's key to its present name; None for one whose database is not captured."""

    def key_now(key: bytes) -> bytes | None:
        number, name = named(None if of_several else were, key)
        return databases.inside(number, name) if number in databases.numbers else None

    # A single database with another number may belong to another server: its keys stay.
    return key_now if of_several or databases.are_several else lambda key: key


def _move(source: BacklogFile, homes: Sequence[Backlog], key_now: Callable[[bytes], bytes | None]) -> str:
    let_go = 0
    try:
        connection = source.connect()
        for (route,) in connection.execute("SELECT DISTINCT route FROM dirty").fetchall():
            for rows in rows_of(connection, route):
                kept = [replace(row, key=key) for row in rows if (key := key_now(row.key)) is not None]
                let_go += len(rows) - len(kept)
                if reason := _put(route, kept, homes):
                    return reason
        source.unlink()
    except (sqlite3.Error, OSError) as error:
        reason, moved = source.failed(error)
        return "" if moved else reason
    finally:
        source.close()
    if let_go:
        log.warning("backlog_let_go", keys=let_go, meaning="their databases are no longer captured")
    return ""


def _put(route: str, rows: Sequence[BacklogRow], homes: Sequence[Backlog]) -> str:
    """Put each row where its key belongs; return "" or why that is impossible."""
    parts: list[list[BacklogRow]] = [[] for _ in homes]
    for row in rows:
        parts[crc32(row.key) % len(homes)].append(row)
    for home, part in zip(homes, parts, strict=True):
        if reason := home.put(route, part):
            return reason
    return ""
