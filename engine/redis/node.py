"""The settings that reach one node of a server.  (pure)"""

from __future__ import annotations

from msgspec.structs import replace

from engine.config import RedisSettings
from engine.redis.address import parse_url
from engine.routing.nodes import Node


def settings_for(redis: RedisSettings, node: Node) -> RedisSettings:
    """Return the settings that reach this node, or the replica that is read in its place.

    All else stays: user, password, TLS, database, timeouts. A node without an address is what ``redis.url`` names.
    """
    address = node.reads_at or node.address
    return settings_at(redis, address) if address else redis


def settings_at(redis: RedisSettings, address: str) -> RedisSettings:
    """Return the settings that reach the server at this ``host:port`` with the same user, TLS and database."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    named = parse_url(redis.url)
    scheme = "rediss" if named.tls else "redis"
    return replace(redis, url=f"{scheme}://{place}" + (f"/{named.database}" if named.database else ""))
