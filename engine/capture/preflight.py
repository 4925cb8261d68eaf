"""What has to be true of the server before capture starts, and the shard plan; run in the planner process.

The engine is a guest: keys are sampled and not scanned, and nothing is written but, where ``CONFIG`` is refused,
short-lived canaries. Only the original's mapping hashes, where they are used, take a scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import hiredis
import msgspec

from engine.capture.notifications import Flags, needed_flags, see_to_flags, try_canary
from engine.capture.rehearsal import denied_repairs, rehearse
from engine.capture.watch.rights import unseen
from engine.config import RedisSettings, Settings
from engine.errors import NotificationsOff, RedisRefused
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.redis.eviction import QUESTIONS, is_replica, policy_of
from engine.routing import glob
from engine.routing.assignment import Feeds, assign, imbalance
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.routing.slices import parse_slice, scope_of

MAPPINGS_MAX = 1_000
MAPPING_FIELDS_MAX = 100
_SCAN_COUNT = 1_000
_SAMPLE_AT_ONCE = 100
_SAMPLE_BYTES_MAX = 16 * 1024 * 1024


class CapturePlan(msgspec.Struct, frozen=True):
    """How the keyspace is cut, and what the user should know of the server."""

    topology: Topology
    feeds: Feeds
    database: int
    server: str
    warnings: tuple[str, ...]
    scope: str
    server_ms: int


def prepare_capture(settings: Settings, table: RouteTable) -> CapturePlan:
    """Check the server, sample its keys, cut the shards, subscribe to them once, see that the server notifies.

    Raises `RedisUnreachable`, `RedisRefused` or `NotificationsOff`, each with its remedy.
    """
    redis = settings.redis
    connection = RespConnection.open(redis, name="engine-planner")
    try:
        database = connection.address.database
        _check_mode(connection)
        sample, warning = _sample(connection, settings.capture.sample_keys_max)
        part = parse_slice(settings.capture.slice)
        topology = Topology()
        feeds = assign(
            topology,
            settings.capture.shards,
            part,
            database=database,
            samples={"": sample},
            mapping_prefix=settings.original.mapping_prefix.encode(),
        )
        on_node = [feed for of_shard in feeds for feed in of_shard]
        rehearse(redis, database, on_node)
        warnings = [
            warning,
            imbalance(on_node, sample),
            denied_repairs(connection, on_node),
            *unseen(connection, redis.username or "default"),
        ]
        try:
            needed = needed_flags(table, settings.original.mapping_prefix)
            warnings.insert(0, _see_to_notifications(connection, redis, needed))
        except NotificationsOff as error:
            error.warnings = tuple(filter(None, warnings))
            raise
        time: Any = connection.call("TIME")
        if isinstance(time, hiredis.ReplyError):
            raise refusal(connection.address, "tell its time, which orders the values", str(time))
        return CapturePlan(
            topology,
            feeds,
            database,
            _describe(connection),
            tuple(filter(None, warnings)),
            scope=scope_of(f"{connection.address}/{database}", part),
            server_ms=int(time[0]) * 1_000 + int(time[1]) // 1_000,
        )
    finally:
        connection.close()


def evictions_of(redis: RedisSettings) -> tuple[str, bool]:
    """Return by which policy the server evicts, "" where it does not, or does not tell; and whether it is a replica."""
    connection = RespConnection.open(redis, name="engine-planner")
    try:
        replies = connection.pipeline(b"".join(QUESTIONS), len(QUESTIONS))
        return policy_of(replies), is_replica(replies)
    finally:
        connection.close()


def _check_mode(connection: RespConnection) -> None:
    mode = connection.facts.get("mode")
    if mode == "cluster":
        raise RedisRefused(
            f"{connection.address} is a cluster node, and this version captures from one server without cluster mode",
            hint="name such a server in redis.url",
        )
    if mode == "sentinel":
        raise RedisRefused(
            f"{connection.address} is a Sentinel, which holds no keys",
            hint="write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE in redis.url, or name the primary itself",
        )


def _describe(connection: RespConnection) -> str:
    """Return in words what the server is, as far as it tells."""
    facts = connection.facts
    reply = connection.call("CONFIG", "GET", "maxmemory-policy")
    policy = reply.get(b"maxmemory-policy", b"") if isinstance(reply, dict) else b""
    name = f"{facts.get('server', 'redis').capitalize()} {facts.get('version', '?')}"
    role = {"master": "primary", "slave": "replica"}.get(facts.get("role", ""), facts.get("role", ""))
    details = [facts.get("mode", ""), role, f"maxmemory-policy {policy.decode()}" if policy else ""]
    return f"{name} ({', '.join(filter(None, details))})"


def _see_to_notifications(connection: RespConnection, redis: RedisSettings, needed: str) -> str:
    if see_to_flags(connection, needed, may_set=redis.set_notifications) is Flags.CONFIG_REFUSED:
        return try_canary(redis, connection.address.database, needed)
    return ""


def _sample(connection: RespConnection, keys_max: int) -> tuple[list[bytes], str]:
    """Return some keys by chance, bounded in number and bytes, and a warning where none may be had."""
    keys: list[bytes] = []
    size = 0
    while len(keys) < keys_max and size < _SAMPLE_BYTES_MAX:
        count = min(_SAMPLE_AT_ONCE, keys_max - len(keys))
        for reply in connection.pipeline(pack("RANDOMKEY") * count, count):
            if isinstance(reply, hiredis.ReplyError):
                return keys, f"no keys could be sampled, so shards are cut blindly: {reply}"
            if reply is None:
                return keys, ""
            keys.append(reply)
            size += len(reply)
    return keys, ""


def read_mappings(redis: RedisSettings, prefix: str) -> dict[str, dict[str, str]]:
    """Return the original's mapping hashes, ``{key: fields}``, whose keys begin with this prefix.

    What is not UTF-8 in a key becomes surrogates, in a field or value the replacement sign.
    """
    connection = RespConnection.open(redis, name="engine-planner")
    try:
        keys = sorted(_mapping_keys(connection, prefix))
        sizes = _ask(connection, "HLEN", keys)
        for key, size in zip(keys, sizes, strict=True):
            if size > MAPPING_FIELDS_MAX:
                raise RedisRefused(
                    f"the hash {_text(key)!r} begins with the mapping prefix {prefix!r} and has {size} fields: "
                    f"a mapping has {MAPPING_FIELDS_MAX} at most",
                    hint="choose a prefix that only mappings begin with: original.mapping_prefix",
                )
        return {
            key.decode("utf-8", "surrogateescape"): {_text(name): _text(value) for name, value in fields.items()}
            for key, fields in zip(keys, _ask(connection, "HGETALL", keys), strict=True)
            if fields
        }
    finally:
        connection.close()


def _mapping_keys(connection: RespConnection, prefix: str) -> set[bytes]:
    pattern = glob.escape(prefix.encode()) + b"*"
    keys: set[bytes] = set()
    for found in _scan(connection, pattern):
        keys.update(found)
        if len(keys) > MAPPINGS_MAX:
            raise RedisRefused(
                f"more than {MAPPINGS_MAX} hashes begin with the mapping prefix {prefix!r}",
                hint="choose a prefix that only mappings begin with: original.mapping_prefix",
            )
    return keys


def _scan(connection: RespConnection, pattern: bytes) -> Iterator[Iterable[bytes]]:
    cursor = b"0"
    while True:
        reply = connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT, "TYPE", "hash")
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(connection.address, "scan for mapping hashes", str(reply))
        cursor, found = reply
        yield found
        if cursor == b"0":
            return


def _ask(connection: RespConnection, command: str, keys: list[bytes]) -> list[Any]:
    """Return the answers to one command for each key; a key that is no hash any more counts as empty."""
    replies = connection.pipeline(b"".join(pack(command, key) for key in keys), len(keys))
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("WRONGTYPE"):
            raise refusal(connection.address, "read the mapping hashes", str(reply))
    empty: Any = 0 if command == "HLEN" else {}
    return [empty if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]


def _text(word: bytes) -> str:
    return word.decode("utf-8", "replace")
