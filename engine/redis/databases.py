"""Asks a server which databases it has, if the settings want all of them."""

from __future__ import annotations

from typing import Any

import hiredis
from msgspec.structs import replace

from engine.config import RedisSettings, Settings
from engine.errors import RedisRefused
from engine.redis.address import parse_url, with_database
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.routing.databases import ALL, DATABASES_MAX, databases_of, route_inside

_SETTING = "databases"
_OUT_OF_RANGE = "out of range"


def with_numbers(redis: RedisSettings) -> RedisSettings:
    """Return the settings with the numbers of the databases that ``"*"`` stands for; a single one goes into the URL.

    Raises `RedisError` if the server can't be asked, or has too many.
    """
    if redis.databases != ALL:
        return redis
    connection = RespConnection.open(redis, name="engine-planner", database=0)
    try:
        if connection.facts.get("mode") == "cluster":
            raise in_a_cluster(connection.address)
        count = _count(connection)
    finally:
        connection.close()
    if count == 1:
        return replace(redis, databases="", url=with_database(redis.url, 0))
    return replace(redis, databases=tuple(range(count)))


def in_a_cluster(asked: object) -> RedisRefused:
    """Return the error for several databases in a cluster."""
    return RedisRefused(
        f"{asked} is a node of a cluster, which has database 0 alone, and redis.databases names several",
        hint="leave redis.databases out",
    )


def _count(connection: RespConnection) -> int:
    """Return how many databases there are: what the server's setting says, or how far ``SELECT`` goes."""
    told = _told(connection.call("CONFIG", "GET", _SETTING))
    if told is None:
        # Managed services refuse CONFIG.
        tried: list[Any] = connection.pipeline(
            b"".join(pack("SELECT", number) for number in range(DATABASES_MAX + 1)), DATABASES_MAX + 1
        )
        told = next((n for n, reply in enumerate(tried) if isinstance(reply, hiredis.ReplyError)), len(tried))
        if told < len(tried) and _OUT_OF_RANGE not in str(tried[told]):
            raise refusal(connection.address, "select its databases", str(tried[told]))
    if told > DATABASES_MAX:
        raise RedisRefused(
            f'{connection.address} has more than {DATABASES_MAX} databases, as redis.databases = "*" would capture',
            hint="name those that are in use: databases = [0, 1]",
        )
    return told


def _told(reply: Any) -> int | None:
    words = next(iter(reply.items())) if isinstance(reply, dict) and reply else reply
    if isinstance(words, list | tuple) and len(words) == 2 and bytes(words[1]).isdigit():
        return int(words[1])
    return None


def check_selectable(connection: RespConnection, numbers: tuple[int, ...], home: int) -> None:
    """Select each database once, the home database last; raise `RedisRefused` for one that is missing or denied."""
    asked = (*numbers, home)
    replies = connection.pipeline(b"".join(pack("SELECT", number) for number in asked), len(asked))
    for number, reply in zip(asked, replies, strict=True):
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(connection.address, f"select database {number}", str(reply))


def known_inside(settings: Settings) -> Settings:
    """Return the settings with the numbers of their databases, and routes that match the internal names of keys.

    Raises `RedisError`.
    """
    redis = with_numbers(settings.redis)
    databases = databases_of(redis, parse_url(redis.url).database)
    routes = tuple(route_inside(route, databases) for route in settings.routes)
    return replace(settings, redis=redis, routes=routes)
