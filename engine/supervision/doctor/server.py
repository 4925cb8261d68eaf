"""The nodes of the server: limits against the rate that is measured, memory, replicas, clocks."""

from __future__ import annotations

import select
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hiredis

from engine.clock import now_ms
from engine.config import RedisSettings, Settings
from engine.errors import RedisError
from engine.redis.address import parse_url
from engine.redis.connection import RespConnection, pack
from engine.redis.eviction import joined
from engine.redis.node import settings_for
from engine.redis.topology import ask_topology
from engine.routing.databases import ALL, databases_of
from engine.routing.nodes import Node
from engine.supervision.doctor.figures import (
    OutputLimit,
    about_clock,
    about_memory,
    about_output,
    about_replicas,
    output_limit,
)
from engine.supervision.errands.findings import Finding, Verdict, finding

SAMPLE_S = 1.0
"""For how long notifications are counted: each costs the server's one thread about 0.25 µs."""
_SAMPLE_BYTES_MAX = 64 << 20
_NODES_AT_ONCE = 16
_CLIENT = "engine-check"
_ANY = b"__keyspace@"
"""What the channels of all databases begin with."""


def server_findings(settings: Settings) -> list[Finding]:
    """Return what each node reports about itself; raises `RedisError` if the nodes can't be asked for."""
    found = ask_topology(settings.redis)
    nodes = [node for node in found.topology.nodes if node.id not in found.failed]
    with ThreadPoolExecutor(_NODES_AT_ONCE) as pool:
        looks = pool.map(lambda node: _look_at(settings, node), nodes)
    return [one for look in looks for one in look]


def _look_at(settings: Settings, node: Node) -> list[Finding]:
    place = f"server {node.place}" if node.id else "server"
    redis, margin_ms = settings_for(settings.redis, node), settings.delivery.deadline_margin_ms
    try:
        connection = RespConnection.open(redis, name=_CLIENT, readonly=bool(node.id and node.reads_at))
    except RedisError as error:
        return [finding(Verdict.NOTE, place, f"was not looked at: {error.message}", error.hint)]
    try:
        replies = connection.pipeline(
            b"".join(pack("INFO", section) for section in ("server", "memory", "replication"))
            + pack("CONFIG", "GET", "client-output-buffer-limit"),
            4,
        )
        sent_ms = now_ms()
        time_of = connection.call("TIME")
        received_ms = now_ms()
    except RedisError as error:
        return [finding(Verdict.NOTE, place, f"was not looked at: {error.message}", error.hint)]
    finally:
        connection.close()
    info = _facts(joined(replies[:3]).decode(errors="replace"))
    limit = _limit_in(replies[3])
    found = [about_memory(info, place), about_replicas(info, place)]
    if settings.capture.source == "keyspace":
        rate = _notifications(redis, settings) if limit is not None else None
        found.insert(0, about_output(limit, rate, place))
    if isinstance(time_of, list):
        seconds, micros = (int(part) for part in time_of)
        ahead_ms = seconds * 1_000 + micros // 1_000 - (sent_ms + received_ms) // 2
        found.append(about_clock(ahead_ms, "the server", place, margin_ms))
    return found


def _facts(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _limit_in(reply: Any) -> OutputLimit | None:
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    if not isinstance(reply, list) or len(reply) < 2:
        return None
    value = reply[1]
    return output_limit(value.decode() if isinstance(value, bytes) else str(value))


def _notifications(redis: RedisSettings, settings: Settings) -> float | None:
    """Return how many bytes of notifications a second the node sends a subscriber of all; None if not allowed."""
    home = parse_url(redis.url).database
    prefix = _ANY if settings.redis.databases == ALL else databases_of(settings.redis, home).prefix
    connection = RespConnection.open(redis, name=_CLIENT)
    try:
        if isinstance(connection.call("PSUBSCRIBE", prefix + b"*"), hiredis.ReplyError):
            return None
        return _bytes_per_s(connection)
    except RedisError:
        return None
    finally:
        connection.close()


def _bytes_per_s(connection: RespConnection) -> float:
    sock, counted = connection.detach(), 0
    began_s = time.monotonic()
    until_s = began_s + SAMPLE_S
    sock.settimeout(SAMPLE_S)
    while (left_s := until_s - time.monotonic()) > 0 and counted < _SAMPLE_BYTES_MAX:
        if select.select([sock], [], [], left_s)[0]:
            part = len(sock.recv(1 << 20))
            if not part:
                break
            counted += part
    return counted / max(1e-3, time.monotonic() - began_s)
