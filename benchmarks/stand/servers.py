"""The Redis that a benchmark runs on: an embedded server, or the one that ``REDIS_URL`` names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile

import hiredis

from benchmarks.drive.commands import PREFIX
from benchmarks.stand.errors import BenchmarkError
from benchmarks.stand.load import info
from engine.config import RedisSettings
from engine.errors import ConfigError, EngineError
from engine.redis.connection import RespConnection
from engine.sandbox.valkey import ValkeyServer
from engine.settings.file import load_settings

SHARED = "BENCH_SHARED"
SCAN_COUNT = 1_000
NO_MATTER = """\
[aws]
region = "us-east-1"
[[routes]]
name = "bench"
function = "bench"
"""
"""What settings are not complete without, where the server alone is wanted."""


class ServerError(BenchmarkError):
    """A server that no benchmark may run on; the message says why, and what to do."""


@dataclass(frozen=True)
class Server:
    """A server to run on.

    ``pid`` is 0 if the process is not ours to look at. ``environment`` is what the engine finds it by, credentials
    included; ``keys`` the patterns of the keys that a route may take, which are others' too on a server of others.
    """

    redis: RedisSettings
    pid: int
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    keys: tuple[str, ...] = ("*",)


def is_embedded(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether each benchmark has a server of its own."""
    return not environ.get("REDIS_URL")


@contextmanager
def redis_server(environ: Mapping[str, str] = os.environ) -> Iterator[Server]:
    """Start a server, or take the one of ``REDIS_URL``; raise `ServerError`.

    A server of others is left as it was found: our keys are removed, and its notification flags are set back.
    """
    if is_embedded(environ):
        with ValkeyServer() as embedded:
            yield Server(RedisSettings(url=embedded.url), embedded.pid)
        return
    server = named_server(environ)
    with opened(server.redis) as connection:
        _look_around(connection, server.redis, is_shared=environ.get(SHARED) == "1")
        flags = _flags(connection)
    try:
        yield server
    finally:
        with opened(server.redis) as connection:
            _clean_up(connection)
            if flags is not None:
                connection.call("CONFIG", "SET", "notify-keyspace-events", flags)


@contextmanager
def without_notifications(redis: RedisSettings) -> Iterator[None]:
    """Have the server tell nobody of its changes until the block ends, where it lets us; then as before."""
    with opened(redis) as connection:
        flags = _flags(connection)
        if flags is None:
            yield
            return
        connection.call("CONFIG", "SET", "notify-keyspace-events", "")
        try:
            yield
        finally:
            connection.call("CONFIG", "SET", "notify-keyspace-events", flags)


def named_server(environ: Mapping[str, str]) -> Server:
    """Return the server of ``REDIS_URL`` and the engine's variables for it; raise `ServerError`."""
    own = {name: value for name, value in environ.items() if name.startswith(("REDIS_URL", "ENGINE_REDIS_"))}
    with NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(NO_MATTER)
        file.flush()
        try:
            redis = load_settings(file.name, own, {}).redis
        except ConfigError as error:
            raise ServerError(str(error)) from error
    return Server(redis, 0, own, (f"{PREFIX}*",))


@contextmanager
def opened(redis: RedisSettings) -> Iterator[RespConnection]:
    """Give a connection for as long as the block takes; raise `ServerError`."""
    try:
        connection = RespConnection.open(redis, name="bench", protocol=2, encoding="utf-8")
    except EngineError as error:
        raise ServerError(f"REDIS_URL: {error}") from error
    try:
        yield connection
    finally:
        connection.close()


def _look_around(connection: RespConnection, redis: RedisSettings, *, is_shared: bool) -> None:
    at = str(connection.address)
    if info(redis, "cluster").get("cluster_enabled") == "1":
        raise ServerError(f"{at} is a node of a cluster: benchmarks run on a server that stands alone")
    keys = sum(int(facts.split(",")[0].removeprefix("keys=")) for facts in info(redis, "keyspace").values())
    if keys and not is_shared:
        raise ServerError(
            f"{at} holds {keys:,} keys: a load takes from those who use them. Name an empty server, unset REDIS_URL "
            f"for an embedded one, or set {SHARED}=1 if it may be so"
        )
    if next(_ours(connection), None):
        raise ServerError(f"{at} holds keys {PREFIX}…, as a benchmark's are called: they would be overwritten")


def _flags(connection: RespConnection) -> str | None:
    """Return the notification flags as they are, or None if the server does not tell."""
    reply = connection.call("CONFIG", "GET", "notify-keyspace-events")
    return None if isinstance(reply, hiredis.ReplyError) or len(reply) < 2 else str(reply[1])


def _ours(connection: RespConnection) -> Iterator[list[str]]:
    cursor = "0"
    while True:
        reply = connection.call("SCAN", cursor, "MATCH", f"{PREFIX}*", "COUNT", SCAN_COUNT)
        if isinstance(reply, hiredis.ReplyError):
            raise ServerError(f"{connection.address} refuses SCAN: {reply}")
        cursor, names = reply
        if names:
            yield names
        if cursor == "0":
            return


def _clean_up(connection: RespConnection) -> None:
    with suppress(ServerError):
        for names in _ours(connection):
            connection.call("UNLINK", *names)
