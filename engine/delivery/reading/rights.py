"""Whether the user may run the commands that read the routes' keys, tried before the start."""

from __future__ import annotations

from collections.abc import Iterable

from engine.config import RedisSettings, RouteSettings
from engine.delivery.reading.questions import EXISTS, EXPIRES_IN, KIND_OF_EVENT, TYPE, ask
from engine.redis.connection import RespConnection
from engine.redis.errors import denial
from engine.routing.events import expand_events

PROBE = b"__engine_probe__"
"""A key that nobody has: what is asked of it shows whether the command is allowed."""


def denied_reads(redis: RedisSettings, database: int, routes: Iterable[RouteSettings]) -> str:
    """Return a warning that names the reads which the user may not run, "" where all are allowed."""
    kinds = {TYPE: None}
    for route in routes:
        kinds.update(dict.fromkeys(KIND_OF_EVENT[event] for event in expand_events(route.events)))
        if route.include_expiry:
            kinds[EXPIRES_IN] = None
    if "stream" in kinds:
        kinds[EXISTS] = None
    connection = RespConnection.open(redis, name="engine-rehearsal", database=database)
    try:
        replies = connection.pipeline(ask([PROBE] * len(kinds), kinds), len(kinds))
    finally:
        connection.close()
    return denial("so keys of their types can't be delivered", replies)
