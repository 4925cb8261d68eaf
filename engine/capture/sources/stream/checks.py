"""What has to be true of the streams before the start; run in the planner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from engine.config import CaptureSettings
from engine.errors import RedisRefused
from engine.redis.connection import REPLICA, RespConnection, pack
from engine.redis.errors import denial, refusal

PROBE_GROUP = "__engine_probe__"
"""A group that does not exist."""


def check_streams(connection: RespConnection, streams: Sequence[bytes], capture: CaptureSettings) -> tuple[str, ...]:
    """Check that these are streams, or do not exist yet, and that a group may read them; return what the user should
    know.

    Nothing is changed. Raises `RedisError`.
    """
    address = connection.address
    if streams and connection.facts.get("role") == REPLICA:
        raise RedisRefused(
            f"{address} is a replica, and groups are kept by the primary", hint="name the primary in redis.url"
        )
    for stream in streams:
        name = stream.decode()
        kind: Any = connection.call("TYPE", stream)
        if isinstance(kind, hiredis.ReplyError):
            raise refusal(address, f"report the type of {name}", str(kind))
        if kind not in (b"none", b"stream"):
            raise RedisRefused(
                f"{address}: the key {name}, which capture.streams names, is a {kind.decode()}, not a stream",
                hint="name another, or rename the key",
            )
        _try(connection, name, stream, capture)
    claims = [pack("XAUTOCLAIM", stream, PROBE_GROUP, "engine", 0, "0-0") for stream in streams]
    replies = connection.pipeline(b"".join(claims), len(claims)) if claims else []
    return tuple(filter(None, [denial("so entries that another consumer has left are not taken over", replies)]))


def _try(connection: RespConnection, name: str, stream: bytes, capture: CaptureSettings) -> None:
    """Try the commands on the stream itself, with a group that does not exist."""
    trials = {
        "read": pack("XREADGROUP", "GROUP", PROBE_GROUP, "engine", "COUNT", 1, "STREAMS", stream, ">"),
        "look at": pack("XINFO", "STREAM", stream, "FULL", "COUNT", 1),
        "acknowledge entries of": pack("XACK", stream, PROBE_GROUP, "0-1"),
        # With an invalid id, so that no group is created.
        "make groups of": pack("XGROUP", "CREATE", stream, PROBE_GROUP, "none"),
    }
    if capture.after_ack == "delete":
        trials["delete entries of"] = pack("XDEL", stream, "0-1")
    elif capture.after_ack == "trim":
        trials["trim"] = pack("XTRIM", stream, "MINID", "0-1")
    replies = connection.pipeline(b"".join(trials.values()), len(trials))
    for what, reply in zip(trials, replies, strict=True):
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("NOPERM", "ERR unknown")):
            raise refusal(connection.address, f"{what} the stream {name}", str(reply))
