"""What subscribers and repairs will do with the server, tried before the start, with the same patterns and commands.

Only the server knows what a user's rights amount to: with ``resetchannels``, one shard's pattern may be allowed while
those of several are not. So everything is tried, and nothing is inferred.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import hiredis

from engine.config import RedisSettings
from engine.redis.connection import NOTHING, UNPARSABLE, RespConnection, pack
from engine.redis.errors import denial, not_redis, refusal
from engine.routing.feeds import Feed

WAIT_S = 5.0
TOKEN = b"rehearsal"
PROBE = "__engine_probe__"
"""A key that does not exist: asking for it shows whether the command is allowed."""


def rehearse(redis: RedisSettings, database: int, feeds: Sequence[Feed]) -> None:
    """Subscribe to all patterns of these feeds, and ping; raise `RedisError` if that is not allowed."""
    connection = RespConnection.open(redis, name="engine-rehearsal", protocol=2, database=database)
    try:
        connection.send(b"".join(pack("PSUBSCRIBE", *feed.patterns) for feed in feeds) + pack("PING", TOKEN))
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                reply = connection.reply()
            except UNPARSABLE as error:
                raise not_redis(connection.address, error) from error
            if reply is NOTHING:
                connection.receive()
            elif isinstance(reply, hiredis.ReplyError):
                raise refusal(connection.address, "let the engine subscribe", str(reply))
            elif TOKEN in (reply, *(reply if isinstance(reply, list) else ())):
                return
    finally:
        connection.close()


def denied_repairs(connection: RespConnection, feeds: Sequence[Feed]) -> str:
    """Return a warning that names the commands of a repair which the user may not run, "" if all are allowed."""
    # The names alone: with several databases each of them is scanned by itself.
    pattern = feeds[0].patterns[0].partition(b"__:")[2]
    commands = (
        ("SCAN", 0, "MATCH", pattern, "COUNT", 1), ("EXISTS", PROBE), ("DBSIZE",), ("OBJECT", "IDLETIME", PROBE)
    )  # fmt: skip
    replies = connection.pipeline(b"".join(pack(*command) for command in commands), len(commands))
    return denial("so gaps cannot be repaired properly", replies)
