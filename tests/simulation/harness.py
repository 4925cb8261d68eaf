"""The real invoker on scripted time: what its modules take from the outside is replaced here, and nothing else."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.delivery import intake, invoker, reads, relief, unchanged
from engine.delivery.backlog import file as backlog_file
from engine.delivery.backlog.file import BacklogFile
from engine.delivery.lanes import aftermath, hands, route_lane, shelving
from engine.delivery.reading import fetch, gather, job, node_reader
from engine.digests.table import DigestTable
from engine.ring.ring import RingReader
from tests.simulation.cache import Cache, FakeConnection
from tests.simulation.functions import Functions
from tests.simulation.world import World


class Silent:
    """A log that nobody reads."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: None


class AtOnce:
    """Stands for `Connecting`: no thread, and no waiting."""

    def __init__(self, connect: Callable[[], Any], on_end: Callable[[], None]) -> None:
        self._connect = connect
        on_end()

    def poll(self) -> Any:
        """Connect."""
        return self._connect()


def install(patch: pytest.MonkeyPatch, world: World, cache: Cache, functions: Functions) -> None:
    """Put the invoker's modules onto this world."""
    for module in (invoker, intake, aftermath, shelving, backlog_file, fetch, node_reader, unchanged):
        patch.setattr(module, "log", Silent())
    for module in (invoker, route_lane, reads, backlog_file):
        patch.setattr(module, "now_ms", world.now_ms)
    for module in (invoker, relief, route_lane, reads, fetch, gather, job):
        patch.setattr(module, "monotonic_ms", world.monotonic_ms)
    for module in (invoker, aftermath):
        patch.setattr(module, "random", world.rng)
    patch.setattr(hands, "make_target", functions.target)
    patch.setattr(hands, "Dispatcher", functions.dispatcher)
    patch.setattr(hands, "failure_sink", functions.sink)
    patch.setattr(FakeConnection, "cache", cache, raising=False)
    patch.setattr(node_reader, "ReadConnection", FakeConnection)
    patch.setattr(node_reader, "Connecting", AtOnce)
    _install_disk(patch, world)
    _install_points(patch, world)


def _install_disk(patch: pytest.MonkeyPatch, world: World) -> None:
    # Power supplies don't fail here, processes do.
    patch.setattr(os, "fsync", lambda _descriptor: None)
    real = BacklogFile.transaction

    @contextmanager
    def transaction(self: BacklogFile, *, durable: bool) -> Iterator[sqlite3.Connection]:
        if world.is_disk_full:
            world.disk_failed += 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = world.rng.choice([sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
            raise error
        with real(self, durable=durable) as connection:
            connection.execute("SELECT 1")
            yield connection
            world.point()
        world.point()

    patch.setattr(BacklogFile, "transaction", transaction)
    unsync(patch)


def unsync(patch: pytest.MonkeyPatch) -> None:
    """Have no backlog wait for the disk."""
    set_up = BacklogFile._set_up

    def unsynced(self: BacklogFile, connection: sqlite3.Connection) -> None:
        set_up(self, connection)
        self._is_synced = True
        connection.execute("PRAGMA synchronous=OFF")

    patch.setattr(BacklogFile, "_set_up", unsynced)


def kill_table(table: DigestTable | None) -> None:
    """Let go of a table as a killed process does: its stores are made, and nothing is said."""
    if table is not None and table.is_open:
        table._release()
        table._map.close()
        os.close(table._descriptor)


def _install_points(patch: pytest.MonkeyPatch, world: World) -> None:
    for name in ("release", "set_watermark"):
        real = getattr(RingReader, name)

        def pointed(self: RingReader, value: Any, real: Any = real) -> None:
            world.point()
            real(self, value)
            world.point()

        patch.setattr(RingReader, name, pointed)
    for name in ("note", "void"):
        real = getattr(DigestTable, name)

        def noted(self: DigestTable, value: Any, real: Any = real) -> None:
            world.point()
            real(self, value)
            world.point()

        patch.setattr(DigestTable, name, noted)
