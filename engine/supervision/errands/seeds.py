"""Where a cluster is asked for its nodes when no host in ``redis.url`` answers: at nodes that are known otherwise."""

from __future__ import annotations

import msgspec

from engine.config import RedisSettings, Settings
from engine.errors import RedisError, RedisUnreachable
from engine.redis.address import parse_url
from engine.redis.connection import RespConnection
from engine.redis.node import settings_at
from engine.supervision.progress.checkpoint import CheckpointFile


def with_a_host_that_answers(settings: Settings) -> tuple[Settings, str]:
    """Return the settings with a ``redis.url`` that answers, if any can be found, and what the user should know about
    it.

    Known nodes are those that the checkpoint has for the same URL, and those that ``redis.node_addresses`` leads to.
    """
    redis = settings.redis
    if parse_url(redis.url).service:
        return settings, ""
    try:
        _mode_of(redis)
    except RedisUnreachable as problem:
        for place in _known(settings):
            at_place = settings_at(redis, place)
            try:
                is_cluster = _mode_of(at_place) == "cluster"
            except RedisError:
                continue
            if is_cluster:
                return msgspec.structs.replace(settings, redis=at_place), f"{problem.message}; {place} is asked instead"
    except RedisError:
        # The code that needs the server raises the same error.
        pass
    return settings, ""


def _mode_of(redis: RedisSettings) -> str:
    connection = RespConnection.open(redis, name="engine-planner", database=0)
    connection.close()
    return connection.facts.get("mode", "")


def _known(settings: Settings) -> list[str]:
    checkpoint, _ = CheckpointFile(settings.supervision.checkpoint_file).load()
    kept = checkpoint.addresses if checkpoint is not None and checkpoint.url == settings.redis.url else ()
    return list(dict.fromkeys((*kept, *(entry.split("=", 1)[1] for entry in settings.redis.node_addresses))))
