"""The smallest sufficient rights of the engine's user, by what the settings, the routes and the server require.

Each right is tried by a command that changes nothing, and a warning says what is lost without it. If a right that a
start needs is missing, the start is refused where the right is used, and the error names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import hiredis

from engine.capture.notifications import SETTING, canary_letters, needed_flags
from engine.capture.own_keys import CANARY_PREFIX
from engine.capture.rehearsal import PROBE
from engine.capture.watch.trust import Software
from engine.config import CaptureSettings, Settings
from engine.errors import RedisError, RedisUnreachable
from engine.redis.address import parse_url
from engine.redis.connection import RespConnection, ask_sentinel, pack
from engine.redis.node import settings_for
from engine.redis.sentinel import sentinels_of
from engine.redis.topology import ask_topology
from engine.routing.glob import escape
from engine.routing.routes import RouteTable
from engine.routing.streams import streams_of

Trial = tuple[str | int, ...]
SERVICE = "SERVICE"
"""Stands in a trial for the service's name."""


@dataclass(frozen=True, slots=True)
class Need:
    """A right, as ``ACL SETUSER`` takes it after a plus, a command that shows whether it is there, and what for.

    If it has no ``loss``, the engine does not start without it, or another check warns of it.
    """

    right: str
    trial: Trial = ()
    loss: str = ""


_MARKS = "so engine redrive and engine audit --repair can't have keys delivered again"
_NARROWED = "so repairs deliver every key, though idle times would tell which ones changed"
_FLUSHES = "so a flush of another database of this server counts as one of this"
_MOVES = "so nothing follows slots that move"
_SCANNED = "so a slot that moves costs a scan of all keys of its new node"

ALWAYS = (
    Need("time"),
    Need("ping"),
    Need("psubscribe"),
    Need("info"),
    Need("scan"),
    Need("exists"),
    Need("dbsize"),
    Need("object|idletime"),
    Need("randomkey", ("RANDOMKEY",), "so shards are cut without knowing the keys, and a flush is not told apart"),
    Need("watch", ("WATCH", PROBE), _FLUSHES),
    Need("multi", ("MULTI",), _FLUSHES),
    Need("exec", ("EXEC",), _FLUSHES),
    Need("client|setname", ("CLIENT", "SETNAME", "engine-rehearsal"), "so marks are waited for longer than needed"),
    Need("client|list", ("CLIENT", "LIST", "TYPE", "pubsub"), "so marks are waited for longer than needed"),
    Need("touch", ("TOUCH", PROBE), f"{_MARKS} for sure"),
    Need("publish", ("PUBLISH", PROBE, ""), f"{_MARKS}, and comparisons delete nothing"),
)
"""What every server and every route require."""

STREAMS = (
    Need("time"),
    Need("info"),
    Need("type"),
    Need("xreadgroup"),
    Need("xack"),
    Need("xgroup|create"),
    Need("xgroup|setid"),
    Need("xinfo|stream"),
    Need("xautoclaim"),
    Need("client|setname"),
)
"""What every server requires if changes come from streams, instead of `ALWAYS`."""

_UNFOUND = "so keys whose entries were removed unread are not found"
_NAMED = (
    Need("scan", ("SCAN", 0, "COUNT", 1), _UNFOUND),
    Need("exists", ("EXISTS", PROBE), _UNFOUND),
    Need("dbsize", ("DBSIZE",), _UNFOUND),
)
_AFTER_ACK = {"delete": Need("xdel"), "trim": Need("xtrim")}

_EVICTED = "so keys that are gone may have been evicted, and are deleted by routes alone that list it"
SCANS = (
    Need("time"),
    Need("scan"),
    Need("exists"),
    Need("dbsize", ("DBSIZE",), "so passes are not paced by the number of keys"),
    Need("info", ("INFO", "memory"), _EVICTED),
    Need("role", ("ROLE",), "so a scan does not notice that its node has become a replica"),
    Need(
        "client|setname",
        ("CLIENT", "SETNAME", "engine-rehearsal"),
        "so the server lists the engine's connections without a name",
    ),
)
"""What every server requires if changes are found by scans, instead of `ALWAYS`."""

CLUSTER = (
    Need("cluster|info"),
    Need("cluster|nodes"),
    Need("cluster|slots"),
    Need("asking", ("ASKING",), _MOVES),
    Need("cluster|countkeysinslot", ("CLUSTER", "COUNTKEYSINSLOT", 0), _SCANNED),
    Need("cluster|getkeysinslot", ("CLUSTER", "GETKEYSINSLOT", 0, 1), _SCANNED),
)

_ROLE = Need("role", ("ROLE",), "so each read asks for the server's role by HELLO, which costs more")
"""Without cluster mode. In a cluster a node that does not own a key says so."""

_UNREAD = "so keys of their types can't be delivered, and hold up those that are read with them"
READS = tuple(
    Need(right, trial, _UNREAD)
    for right, trial in {
        "type": ("TYPE", PROBE),
        "hgetall": ("HGETALL", PROBE),
        "get": ("GET", PROBE),
        "lrange": ("LRANGE", PROBE, 0, -1),
        "smembers": ("SMEMBERS", PROBE),
        "zrange": ("ZRANGE", PROBE, 0, -1, "WITHSCORES"),
        "xrange": ("XRANGE", PROBE, "-", "+"),
    }.items()
)
"""For reading values. A repair finds keys of all types, whatever events a route wants."""
_JSON = Need("json.get", ("JSON.GET", PROBE), _UNREAD)

_CANARIES = {"$": "set", "l": "rpush", "s": "sadd", "h": "hset", "z": "zadd", "t": "xadd", "g": "set"}
"""For writing a canary of a class of events."""

SENTINELS = (
    Need("sentinel|get-master-addr-by-name"),
    Need("sentinel|master", ("SENTINEL", "MASTER", SERVICE), "so values of two primaries may be put in a wrong order"),
    Need("client|setname", ("CLIENT", "SETNAME", "engine"), "so they list the engine's connections without a name"),
)
"""What is asked of Sentinels, if ``redis.url`` names some."""
_REPLICAS = Need("sentinel|replicas", ("SENTINEL", "REPLICAS", SERVICE), "so no replica is found to read from")


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides which rights are needed, besides the settings and routes."""

    software: Software
    is_cluster: bool = False
    has_config: bool = True
    has_json: bool = False
    database: int = 0

    @property
    def is_old(self) -> bool:
        """Tell whether it is a Redis before 7, whose ACLs have no right to read a key without writing it."""
        return self.software.family == "redis" and self.software.version < (7, 0)


def needs(settings: Settings, table: RouteTable, situation: Situation) -> list[Need]:
    """Return all rights that the engine needs, each once."""
    capture = settings.capture
    if capture.source == "stream":
        found = [*STREAMS, *_of_streams(capture), *_of_reads(situation)]
        found += [Need("config|get")] if situation.has_config else []
    elif capture.source == "scan":
        found = [*SCANS, *READS, *_of_reads(situation)]
    else:
        found = [*ALWAYS, *READS, *_of_server(settings, table, situation)]
    if situation.has_json:
        found.append(_JSON)
    if situation.is_cluster:
        found += CLUSTER
        if settings.redis.read_from != "primary":
            found.append(Need("readonly"))
    else:
        found += (_ROLE, Need("select")) if situation.database or settings.redis.databases else (_ROLE,)
    if any(route.include_expiry for route in table.routes.values()):
        expiry = ("PTTL",) if situation.is_old else ("PEXPIRETIME",)
        found.append(Need(expiry[0].lower(), (*expiry, PROBE), "so records can't say when their keys expire"))
    if settings.original.mapping_prefix:
        found += (Need("hlen"), Need("hgetall"))
    rights: dict[str, Need] = {}
    for need in found:
        # Of equal rights, the one that says what is lost counts.
        rights[need.right] = need if need.loss or need.right not in rights else rights[need.right]
    return [*rights.values()]


def _of_reads(situation: Situation) -> Iterator[Need]:
    software = situation.software
    if not (software.family == "redis" and (software.version < (7, 2) or situation.is_cluster)):
        trial = ("CLIENT", "NO-TOUCH", "ON")
        yield Need("client|no-touch", trial, "so the engine's reads count as uses, and keep keys from being evicted")


def _of_streams(capture: CaptureSettings) -> Iterator[Need]:
    yield from (*READS, *_NAMED) if capture.key_field else (Need("xrange"),)
    if capture.after_ack in _AFTER_ACK:
        yield _AFTER_ACK[capture.after_ack]


def _of_server(settings: Settings, table: RouteTable, situation: Situation) -> Iterator[Need]:
    software = situation.software
    yield from _of_reads(situation)
    if not software.stamps_strings:
        yield Need("object|encoding", ("OBJECT", "ENCODING", PROBE), _NARROWED)
    if situation.has_config:
        yield Need("config|get")
        if settings.redis.set_notifications:
            yield Need("config|set")
    elif letters := canary_letters(needed_flags(table, settings.original.mapping_prefix)):
        yield from (Need(_CANARIES[letter]) for letter in letters)
        yield from (Need(right) for right in ("subscribe", "multi", "exec", "expire", "del"))


def command_of(settings: Settings, situation: Situation, rights: Iterable[Need]) -> str:
    """Return the command that creates the smallest user; whoever runs it fills in the password."""
    name = settings.redis.username or "engine"
    # The empty key is a key too, and no star matches it.
    keys = "~*" if situation.is_old else "%R~* %R~"
    if not situation.has_config and not situation.is_old and settings.capture.source == "keyspace":
        keys += f" ~{CANARY_PREFIX}*"
    for stream in streams_of(settings.capture) if not situation.is_old else ():
        keys += f" ~{escape(stream).decode()}"
    granted = " ".join(f"+{need.right}" for need in sorted(rights, key=lambda need: need.right))
    return f"ACL SETUSER {name} reset on >PASSWORD {keys} &* {granted}"


def sentinel_needs(settings: Settings) -> list[Need]:
    """Return the rights that the Sentinels' user needs, none where the URL names none."""
    if not parse_url(settings.redis.url).service:
        return []
    return [*SENTINELS, *([_REPLICAS] if settings.redis.read_from == "replica" else [])]


def sentinel_command_of(settings: Settings) -> str:
    """Return the command that creates the smallest user of the Sentinels, "" if the URL names none."""
    rights = " ".join(f"+{need.right}" for need in sentinel_needs(settings))
    name = settings.redis.sentinel_username or "engine"
    return f"ACL SETUSER {name} reset on >PASSWORD {rights}" if rights else ""


def denied_by_sentinels(settings: Settings) -> Iterator[str]:
    """Yield a warning for each loss caused by rights that are missing on a Sentinel that answers."""
    redis, address = settings.redis, parse_url(settings.redis.url)
    tried = [need for need in sentinel_needs(settings) if need.trial]
    questions = [tuple(address.service if word is SERVICE else str(word) for word in need.trial) for need in tried]
    for sentinel in sentinels_of(address) if tried else ():
        try:
            replies = ask_sentinel(redis, sentinel, questions)
        except RedisError:
            # A Sentinel that does not answer is skipped, as long as another one does.
            continue
        for warning in _warnings(redis.sentinel_username or "default", tried, replies):
            yield f"Sentinels: {warning}"


def denied(connection: RespConnection, user: str, rights: Sequence[Need]) -> list[str]:
    """Return a warning for each loss that missing rights cause, with the rights that fix it."""
    tried = [need for need in rights if need.trial]
    # Last, because whatever comes between MULTI and EXEC is not executed.
    tried.sort(key=lambda need: ("watch", "multi", "exec").index(need.right) if _is_of_transaction(need) else -1)
    replies = connection.pipeline(b"".join(pack(*need.trial) for need in tried), len(tried))
    return _warnings(user, tried, replies)


def _warnings(user: str, tried: Sequence[Need], replies: Sequence[object]) -> list[str]:
    losses: dict[str, list[str]] = {}
    for need, reply in zip(tried, replies, strict=True):
        if isinstance(reply, hiredis.ReplyError) and _is_denial(str(reply)):
            losses.setdefault(need.loss, []).append(need.right)
    return [
        f"the user may not run {', '.join(missing)}, {loss}: grant it: ACL SETUSER {user} "
        + " ".join(f"+{right}" for right in missing)
        for loss, missing in losses.items()
    ]


def _is_of_transaction(need: Need) -> bool:
    return need.right in {"watch", "multi", "exec"}


def _is_denial(reply: str) -> bool:
    # A transaction that may not be executed is EXECABORT, for that reason. Refusals because of keys are not meant here.
    return "NOPERM" in reply and "to run the" in reply


@dataclass(frozen=True, slots=True)
class RightsLook:
    """The commands that create the smallest users (server, Sentinels), and what the present user may not do."""

    commands: tuple[str, ...] = ()
    sentinel_command: str = ""
    warnings: tuple[str, ...] = ()


def look_at_rights(settings: Settings, table: RouteTable) -> RightsLook:
    """Try the user's rights on every node: each has its own list of users. Raises `RedisError`."""
    redis = settings.redis
    found = ask_topology(redis)
    nodes = [node for node in found.topology.nodes if node.id not in found.failed]
    commands: dict[str, None] = {}
    warnings: dict[str, list[str]] = {}
    for node in nodes:
        try:
            connection = RespConnection.open(settings_for(redis, node), name="engine-rehearsal")
        except RedisUnreachable:
            if not node.id:
                raise
            # The check of notifications reports a missing one.
            continue
        try:
            situation = situation_of(connection)
            rights = needs(settings, table, situation)
            commands[command_of(settings, situation, rights)] = None
            for warning in denied(connection, redis.username or "default", rights):
                warnings.setdefault(warning, []).append(node.address)
        finally:
            connection.close()
    told = [text if len(at) == len(nodes) else f"{text} (at {', '.join(at)})" for text, at in warnings.items()]
    told += dict.fromkeys(denied_by_sentinels(settings))
    return RightsLook(tuple(commands), sentinel_command_of(settings), tuple(told))


def situation_of(connection: RespConnection) -> Situation:
    """Return what the server is, as far as it says."""
    facts = connection.facts
    config, json = connection.pipeline(pack("CONFIG", "GET", SETTING) + pack(*_JSON.trial), 2)
    version = re.match(r"(\d+)\.(\d+)", facts.get("version", ""))
    return Situation(
        Software(facts.get("server", ""), (int(version[1]), int(version[2])) if version else (0, 0)),
        is_cluster=facts.get("mode") == "cluster",
        has_config=isinstance(config, dict | list),
        has_json=not (isinstance(json, hiredis.ReplyError) and "unknown command" in str(json).lower()),
        database=connection.address.database,
    )
