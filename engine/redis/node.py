"""The nodes of a server as they are reached, and the one node of a server without cluster mode, found by asking.

Whoever names a replica in ``redis.url`` has changes captured and read there. With ``redis.read_from = "replica"`` they
are captured and read on a replica of the named primary that is in step with it, as long as there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from engine.config import RedisSettings
from engine.errors import RedisError, RedisUnreachable
from engine.redis.address import Address, join, mapped, parse_url, split
from engine.redis.connection import PRIMARY, REPLICA, RespConnection, ask_sentinel
from engine.redis.sentinel import Named, primaries, replicas
from engine.routing.nodes import Node

_REPLICA = re.compile(rb"^slave\d+:ip=([^,\r]+),port=(\d+),state=online", re.MULTILINE)
_PRIMARY = re.compile(rb"^master_host:([^\r]+)\r\nmaster_port:(\d+)", re.MULTILINE)
_LINK_UP = b"master_link_status:up"


class Placed(NamedTuple):
    """A node, and what its user should know, "" for nothing."""

    node: Node
    told: str = ""


def settings_for(redis: RedisSettings, node: Node) -> RedisSettings:
    """Return the settings that reach this node, or the replica that is read in its place.

    All else stays: user, password, TLS, database, timeouts. A node without an address is what ``redis.url`` names, and
    one that Sentinels name is whom they name at each connect.
    """
    address = node.reads_at or ("" if parse_url(redis.url).service else node.address)
    return settings_at(redis, address) if address else redis


def settings_at(redis: RedisSettings, address: str) -> RedisSettings:
    """Return the settings that reach the server at this ``host:port`` with the same user, TLS and database."""
    named = parse_url(redis.url)
    if address.startswith("/"):
        return replace(redis, url=f"unix://{address}" + (f"?db={named.database}" if named.database else ""))
    scheme = "rediss" if named.tls else "redis"
    return replace(redis, url=f"{scheme}://{join(*split(address))}" + (f"/{named.database}" if named.database else ""))


def role_of(node: Node) -> str:
    """Return what the server has to be that is captured and read for this node: see `RespConnection.open`."""
    return REPLICA if node.reads_at else PRIMARY


def find_node(redis: RedisSettings, current: Node | None = None) -> Placed:
    """Return the one node of a server without cluster mode, as it is now; raise `RedisError`.

    ``current`` is what it was before: its replica stays as long as it is well.
    """
    current = current or Node()
    address = parse_url(redis.url)
    if address.service:
        return _watched_by_sentinels(redis, address, current)
    connection = RespConnection.open(redis, name="engine-planner", protocol=2)
    try:
        is_replica = connection.facts.get("role") == REPLICA
        info = _replication(connection)
    finally:
        connection.close()
    node = replace(current, address="", epoch=0, reads_at="")
    if redis.read_from == "replica":
        if not is_replica:
            return on_a_replica(redis, node, current, _places(redis, info))
        primary = _PRIMARY.search(info)
        if _LINK_UP not in info and primary is not None:
            place = mapped(redis.node_addresses, join(primary[1].decode(), int(primary[2])))
            told = (
                f"the replica {address} has lost its primary: changes are captured and read at {place} until it is back"
            )
            return Placed(replace(node, address=place), told)
        return Placed(replace(node, reads_at=str(address)))
    if not is_replica:
        return Placed(node)
    told = (
        f"{address} is a replica: changes are captured and read there, a little later than at its primary; "
        'redis.read_from = "replica" says that this is meant'
    )
    return Placed(replace(node, reads_at=str(address)), told)


def _watched_by_sentinels(redis: RedisSettings, address: Address, current: Node) -> Placed:
    ask = partial(ask_sentinel, redis)
    node = _newest_primary(redis, list(primaries(address, ask)), current)
    if redis.read_from == "primary":
        return Placed(node)
    places = (mapped(redis.node_addresses, place) for place in replicas(address, ask))
    return on_a_replica(redis, node, current, places)


def _newest_primary(redis: RedisSettings, named: Iterable[Named], current: Node) -> Node:
    """Return the primary with the newest configuration that says so itself: a Sentinel may know of an older one."""
    problem: RedisError | None = None
    for place, epoch in sorted(set(named), key=lambda one: -one.epoch):
        node = replace(current, address=mapped(redis.node_addresses, place), epoch=epoch, reads_at="")
        try:
            RespConnection.open(settings_at(redis, node.address), name="engine-planner", role=PRIMARY).close()
        except RedisUnreachable as error:
            problem = problem or error
            continue
        return node
    assert problem is not None
    raise problem


def on_a_replica(redis: RedisSettings, node: Node, current: Node, places: Iterable[str]) -> Placed:
    """Return the node with the first of these replicas that is in step with it, the current one before the others."""
    where = f" of {node.address}" if node.address else ""
    problems = []
    for place in sorted(places, key=lambda place: place != current.reads_at):
        try:
            _see_that_it_is_well(settings_at(redis, place))
        except RedisError as error:
            problems.append(error.message)
            continue
        return Placed(replace(node, reads_at=place))
    why = "; ".join(problems) or "none is known"
    return Placed(node, f"no replica{where} is well ({why}): changes are captured and read at the primary until one is")


def _see_that_it_is_well(replica: RedisSettings) -> None:
    connection = RespConnection.open(replica, name="engine-planner", protocol=2, role=REPLICA)
    try:
        if _LINK_UP not in _replication(connection):
            raise RedisUnreachable(f"{connection.address} is not in step with its primary")
    finally:
        connection.close()


def _places(redis: RedisSettings, info: bytes) -> Iterator[str]:
    for host, port in _REPLICA.findall(info):
        yield mapped(redis.node_addresses, join(host.decode(), int(port)))


def _replication(connection: RespConnection) -> bytes:
    """Return ``INFO replication``; nothing where it is refused."""
    reply = connection.call("INFO", "replication")
    return reply if isinstance(reply, bytes) else b""
