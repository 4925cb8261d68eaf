"""The file of a backlog: opened when needed, bounded, and closed and reopened after an error.

A write-ahead log, synced at every commit that has to last, preserves what was committed if the process is killed or the
power fails. The file is locked while it is open: a second engine on the same folder is refused, and SQLite needs no
shared memory beside it, so network file systems work.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.clock import now_ms
from engine.delivery.backlog.rows import FROM_VERSION_1, SCHEMA, NotABacklog
from engine.observe.logs import get_logger

log = get_logger(__name__)

PAGE_BYTES = 4_096
CACHE_BYTES_MAX = 48 << 20
CHECKPOINT_PAGES = 1_000
WAL_KEPT_BYTES_MAX = 16 << 20
WAL_ROOM_BYTES_MAX = 128 << 20
"""The part of the bound that is reserved for the log: it takes the pages of one put, until they are in the file."""
CHECKED_BYTES_MAX = 64 << 20
"""A file up to this size is checked whole when it is opened: 0.2 s. Damage in a larger one shows when it is read."""
SHRUNK_PAGES_MIN = 4_096
BUSY_S = 2.0
_APPLICATION_ID = 0x1E9B_AC06
VERSION = 2
"""Of the file's schema. Version 1 is converted; a newer one is refused."""


def is_damage(error: Exception) -> bool:
    """Tell whether an error says that the file's content is wrong, not that the disk refused."""
    if isinstance(error, NotABacklog):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "Could not decode" in str(error)


class TooNew(sqlite3.DatabaseError):
    """A newer engine wrote the file: it is left as it is."""


class BacklogFile:
    """One SQLite file; ``connect`` creates it if there is none. One thread at a time."""

    def __init__(self, path: Path, bytes_max: int, damaged_name: str = "") -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self._bytes_max = bytes_max
        self._damaged_name = damaged_name or path.name
        self._reason = ""
        self._is_synced = True

    def exists(self) -> bool:
        """Tell whether there is a file to open."""
        return self.path.exists()

    def connect(self) -> sqlite3.Connection:
        """Open the file; raise sqlite3.Error or OSError if it can't be used."""
        if self.connection is not None:
            return self.connection
        self._make()
        connection = sqlite3.connect(
            self.path, 0 if self._reason else BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        self.connection = connection
        self._is_synced = True
        return connection

    def _make(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _sync_folder(folder)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        ask = connection.execute
        ask("PRAGMA locking_mode=EXCLUSIVE")
        ask("PRAGMA synchronous=FULL")
        ask(f"PRAGMA page_size={PAGE_BYTES}")
        is_new = not ask("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and ask("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise NotABacklog(f"{self.path} is not a backlog of this engine")
        if not is_new and (version := ask("PRAGMA user_version").fetchone()[0]) > VERSION:
            raise TooNew(f"{self.path} was written by a newer engine: version {version}, and this one reads {VERSION}")
        if ask("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("the file system does not support a write-ahead log")
        room = min(WAL_ROOM_BYTES_MAX, self._bytes_max // 4)
        ask(f"PRAGMA wal_autocheckpoint={max(1, min(CHECKPOINT_PAGES, room // PAGE_BYTES // 2))}")
        ask(f"PRAGMA journal_size_limit={min(WAL_KEPT_BYTES_MAX, room)}")
        ask(f"PRAGMA cache_size=-{CACHE_BYTES_MAX >> 10}")
        ask(f"PRAGMA max_page_count={max(1, (self._bytes_max - room) // PAGE_BYTES)}")
        if is_new:
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={VERSION};"
                f"{SCHEMA} COMMIT;"
            )
        elif self.path.stat().st_size <= CHECKED_BYTES_MAX:
            verdict = str(ask("PRAGMA quick_check(1)").fetchone()[0])
            if verdict != "ok":
                raise NotABacklog(f"{self.path} is damaged: {verdict}")
        if not is_new and ask("PRAGMA user_version").fetchone()[0] < VERSION:
            connection.executescript(f"BEGIN IMMEDIATE; PRAGMA user_version={VERSION};{FROM_VERSION_1} COMMIT;")

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Commit what is done inside, all or nothing; if ``durable``, it survives a power failure too."""
        connection = self.connect()
        if durable != self._is_synced:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._is_synced = durable
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._reason = ""

    def shrink(self) -> None:
        """Return the space of an emptied file to the disk, if that is much."""
        connection = self.connect()
        if connection.execute("PRAGMA page_count").fetchone()[0] >= SHRUNK_PAGES_MIN:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def failed(self, error: Exception) -> tuple[str, str]:
        """Handle an error; return (its text for people, where the damaged file is now or "").

        The file is closed, unless it is merely full; the next use opens it again. A new reason is logged once.
        """
        reason = f"the backlog {self.path} can't be used: {error}"
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            reason += f" (delivery.backlog_bytes_max is {self._bytes_max} bytes)"
        elif code == sqlite3.SQLITE_BUSY:
            reason += " (another process has it: is another engine running on this delivery.backlog_folder?)"
        moved = ""
        if is_damage(error):
            self.close()
            try:
                moved = self._move_aside()
            except OSError as refused:
                reason = f"the backlog {self.path} is damaged ({error}) and can't be moved aside: {refused}"
        elif code != sqlite3.SQLITE_FULL:
            self.close()
        if moved:
            log.error("backlog_damaged", error=str(error), moved_to=moved, hint="a repair has to find its keys")
        elif reason != self._reason:
            log.error("backlog_failed", reason=reason)
        self._reason = reason
        return reason, moved

    def _move_aside(self) -> str:
        """Rename the file and its log; the file first, or a half could pass for a whole."""
        moment_ms = now_ms()
        while (target := self.path.with_name(f"{self._damaged_name}.damaged-{moment_ms}")).exists():
            moment_ms += 1
        for end in ("", "-wal", "-shm"):
            source = self.path.with_name(self.path.name + end)
            if source.exists():
                source.rename(target.with_name(target.name + end))
        _sync_folder(self.path.parent)
        return str(target)

    def close(self) -> None:
        """Close the file; never fails. What was not committed is lost."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def unlink(self) -> None:
        """Close and remove the file; its log first, which must not outlive it."""
        self.close()
        for end in ("-wal", "-shm", ""):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        _sync_folder(self.path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
