"""The original's mapping hashes: which keys go to which function, kept in Redis itself; run in the planner process.

Only they require a scan. In a cluster they are on all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import hiredis
from msgspec.structs import replace

from engine.config import RedisSettings
from engine.errors import RedisRefused
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.redis.node import settings_for
from engine.redis.topology import ask_topology
from engine.routing import glob

MAPPINGS_MAX = 1_000
MAPPING_FIELDS_MAX = 100
_SCAN_COUNT = 1_000
_NOT_HERE = ("WRONGTYPE", "MOVED", "ASK")
"""How a server without such a hash refuses: in a cluster the key may be on its way to another node."""


def read_mappings(redis: RedisSettings, prefix: str) -> dict[str, dict[str, str]]:
    """Return the original's mapping hashes, ``{key: fields}``, whose keys begin with this prefix.

    What is not UTF-8 in a key becomes surrogates, in a field or value the replacement character.
    """
    mappings: dict[str, dict[str, str]] = {}
    redis = replace(redis, read_from="primary")
    for node in ask_topology(redis).topology.nodes:
        connection = RespConnection.open(settings_for(redis, node), name="engine-planner")
        try:
            mappings |= _read(connection, prefix)
        finally:
            connection.close()
        _check_count(len(mappings), prefix)
    return dict(sorted(mappings.items()))


def _read(connection: RespConnection, prefix: str) -> dict[str, dict[str, str]]:
    keys = sorted(_mapping_keys(connection, prefix))
    sizes = _ask(connection, "HLEN", keys)
    for key, size in zip(keys, sizes, strict=True):
        if size > MAPPING_FIELDS_MAX:
            raise RedisRefused(
                f"the hash {_text(key)!r} begins with the mapping prefix {prefix!r} and has {size} fields: "
                f"a mapping has at most {MAPPING_FIELDS_MAX}",
                hint="choose a prefix that only mappings begin with: original.mapping_prefix",
            )
    return {
        key.decode("utf-8", "surrogateescape"): {_text(name): _text(value) for name, value in fields.items()}
        for key, fields in zip(keys, _ask(connection, "HGETALL", keys), strict=True)
        if fields
    }


def _mapping_keys(connection: RespConnection, prefix: str) -> set[bytes]:
    pattern = glob.escape(prefix.encode()) + b"*"
    keys: set[bytes] = set()
    for found in _scan(connection, pattern):
        keys.update(found)
        _check_count(len(keys), prefix)
    return keys


def _check_count(count: int, prefix: str) -> None:
    if count > MAPPINGS_MAX:
        raise RedisRefused(
            f"more than {MAPPINGS_MAX} hashes begin with the mapping prefix {prefix!r}",
            hint="choose a prefix that only mappings begin with: original.mapping_prefix",
        )


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
    """Return the answers to one command for each key; a key that is no longer a hash, or not here, counts as empty."""
    # A key that has arrived before its slot is returned only to clients that send ASKING.
    asking = pack("ASKING") if connection.facts.get("mode") == "cluster" else b""
    each = 2 if asking else 1
    replies = connection.pipeline(b"".join(asking + pack(command, key) for key in keys), len(keys) * each)
    replies = replies[each - 1 :: each]
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_NOT_HERE):
            raise refusal(connection.address, "read the mapping hashes", str(reply))
    empty: Any = 0 if command == "HLEN" else {}
    return [empty if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]


def _text(word: bytes) -> str:
    return word.decode("utf-8", "replace")
