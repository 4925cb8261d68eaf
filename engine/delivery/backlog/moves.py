"""Rows of a backlog that find a new home before the start, because there are more or fewer invokers than before."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from engine.delivery.backlog.backlog import Backlog, path_of
from engine.delivery.backlog.file import BacklogFile
from engine.delivery.backlog.rows import BacklogRow, rows_of

_NAME = re.compile(r"invoker-(\d+)-of-(\d+)\.sqlite")


def rehome(folder: str, invokers: int, bytes_max: int) -> str:
    """Move the rows of files that were written under another number of invokers; return "" or what went wrong.

    To be called while nobody uses the folder. An old file is removed once all of its rows are durable in their new
    homes; after a crash or a failure before that, the next call moves them again. A damaged file is moved aside as
    one of the first invoker's, which lists it.
    """
    homes = [Backlog(folder, invoker, invokers, bytes_max) for invoker in range(invokers)]
    problems = []
    try:
        for path in sorted(Path(folder).glob("invoker-*.sqlite")):
            match = _NAME.fullmatch(path.name)
            if match is not None and int(match[2]) != invokers:
                problems.append(_move(BacklogFile(path, bytes_max, path_of(folder, 0, invokers).name), homes))
    except OSError as error:
        problems.append(f"the backlog {folder} can't be read: {error}")
    finally:
        for home in homes:
            home.close()
    return "; ".join(filter(None, problems))


def _move(source: BacklogFile, homes: Sequence[Backlog]) -> str:
    try:
        connection = source.connect()
        for (route,) in connection.execute("SELECT DISTINCT route FROM dirty").fetchall():
            for rows in rows_of(connection, route):
                if reason := _put(route, rows, homes):
                    return reason
        source.unlink()
    except (sqlite3.Error, OSError) as error:
        reason, moved = source.failed(error)
        return "" if moved else reason
    finally:
        source.close()
    return ""


def _put(route: str, rows: Sequence[BacklogRow], homes: Sequence[Backlog]) -> str:
    """Put each row where its key belongs; return "" or why that can't be."""
    parts: list[list[BacklogRow]] = [[] for _ in homes]
    for row in rows:
        parts[crc32(row.key) % len(homes)].append(row)
    for home, part in zip(homes, parts, strict=True):
        if reason := home.put(route, part):
            return reason
    return ""
