"""The nodes of a server as they are reached, and the one node of a server without cluster mode, found by asking.

Changes are captured and read at the primary, even if ``redis.url`` names a replica of it. With
``redis.read_from = "replica"`` they are at the named replica, or at a replica of the named primary that is in sync with
it, as long as there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from msgspec.structs import replace

from engine.config import RedisSettings
from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.redis.address import Address, join, mapped, parse_url, split
from engine.redis.connection import PRIMARY, REPLICA, RespConnection, ask_sentinel
from engine.redis.sentinel import Named, primaries, replicas
from engine.routing.nodes import Node

_REPLICA = re.compile(rb"^slave\d+:ip=([^,\r]+),port=(\d+),state=online", re.MULTILINE)
_PRIMARY = re.compile(rb"^master_host:([^\r]+)\r\nmaster_port:(\d+)", re.MULTILINE)
_LINK_UP = b"master_link_status:up"
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_LOOKS = 3
"""How many more connections are made to a named replica, to see whether they all lead to the same server."""


_HOPS_MAX = 4
"""How many replicas of replicas are asked for their primary."""
_MEANT = 'name the primary in redis.url; redis.read_from = "replica" captures at a named replica'


class Placed(NamedTuple):
    """A node; what its user should know, "" for nothing; and why a start is refused."""

    node: Node
    told: str = ""
    fault: RedisError | None = None


def settings_for(redis: RedisSettings, node: Node) -> RedisSettings:
    """Return the settings that reach this node, or the replica that is read in its place.

    Everything else stays: user, password, TLS, database, timeouts. A node without an address is the one in
    ``redis.url``.
    """
    return settings_at(redis, node.place) if node.place else redis


def each_host(redis: RedisSettings) -> list[RedisSettings]:
    """Return settings that reach a single host, for each host in ``redis.url``."""
    address = parse_url(redis.url)
    return [settings_at(redis, str(host)) for host in address.each()] if address.hosts else [redis]


def settings_at(redis: RedisSettings, address: str) -> RedisSettings:
    """Return the settings that reach the server at this ``host:port`` with the same user, TLS and database.

    A server that is announced by its IP address has a certificate for the name by which it was found.
    """
    named = parse_url(redis.url)
    if address.startswith("/"):
        return replace(redis, url=f"unix://{address}" + (f"?db={named.database}" if named.database else ""))
    scheme, place = "rediss" if named.tls else "redis", split(address)
    url = f"{scheme}://{join(*place)}" + (f"/{named.database}" if named.database else "")
    if named.tls and _is_ip(place[0]) and named.host and not _is_ip(named.host):
        return replace(redis, url=url, tls_server_name=redis.tls_server_name or named.host)
    return replace(redis, url=url)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def role_of(node: Node) -> str:
    """Return the role that the server that is captured and read for this node must have: see `RespConnection.open`."""
    return REPLICA if node.reads_at else PRIMARY


def find_node(redis: RedisSettings, current: Node | None = None) -> Placed:
    """Return the one node of a server without cluster mode, as it is now; raise `RedisError`.

    ``current`` is what it was before: its replica stays as long as it is healthy.
    """
    current = current or Node()
    address = parse_url(redis.url)
    if address.service:
        return _watched_by_sentinels(redis, address, current)
    connection = RespConnection.open(redis, name="engine-planner", protocol=2)
    try:
        is_replica = connection.facts.get("role") == REPLICA
        info, server, here = _info(connection, "replication"), _server_in(connection), connection.peer()
    finally:
        connection.close()
    node = replace(current, address="", epoch=0, reads_at="")
    if not is_replica:
        if redis.read_from == "primary":
            return Placed(node)
        return on_a_replica(redis, node, current, replicas_in(info, redis.node_addresses))
    at_replica = replace(node, reads_at=here or str(address))
    if redis.read_from == "primary":
        try:
            primary = _primary_above(redis, str(address), info)
        except RedisError as error:
            return _without_its_primary(redis, _at_the_named_replica(redis, at_replica, current, server).node, error)
        told = f"{address} is a replica: changes are captured and read at its primary, {primary}; {_MEANT}"
        return Placed(replace(node, address=primary), told)
    if _LINK_UP not in info and (primary := _primary_in(info, redis)):
        told = f"the replica {address} has lost its primary: changes are captured and read at {primary} meanwhile"
        return Placed(replace(node, address=primary), told)
    return _at_the_named_replica(redis, at_replica, current, server)


def _without_its_primary(redis: RedisSettings, replica: Node, error: RedisError) -> Placed:
    """Return the node at the replica that ``redis.url`` names, and refuse a start: the name may be a mistake."""
    problem = f"{parse_url(redis.url)} is a replica, and its primary can't be captured: {error.message}"
    told = f"{problem}: changes are captured and read at the replica meanwhile"
    return Placed(replica, told, RedisRefused(problem, hint=_MEANT))


def _primary_above(redis: RedisSettings, replica: str, info: bytes) -> str:
    """Return the address of the primary that a replica with this ``INFO replication`` follows; raise `RedisError`."""
    for _ in range(_HOPS_MAX):
        place = _primary_in(info, redis)
        if not place:
            raise RedisUnreachable(f"{replica} does not say which primary it follows")
        connection = RespConnection.open(settings_at(redis, place), name="engine-planner", protocol=2)
        try:
            if connection.facts.get("role") != REPLICA:
                return place
            replica, info = place, _info(connection, "replication")
        finally:
            connection.close()
    raise RedisUnreachable(f"{replica} is a replica too")


def _primary_in(info: bytes, redis: RedisSettings) -> str:
    """Return the address of a replica's primary from its ``INFO replication``, "" if it does not say."""
    found = _PRIMARY.search(info)
    return mapped(redis.node_addresses, join(found[1].decode(), int(found[2]))) if found else ""


def _at_the_named_replica(redis: RedisSettings, node: Node, current: Node, server: bytes) -> Placed:
    """Return the node with one replica to be read, though the name in ``redis.url`` may lead to several in turn.

    Values may be older at one replica than at another: values have to be read where changes are heard.
    """
    address = parse_url(redis.url)
    if current.reads_at and current.reads_at != node.reads_at:
        with suppress(RedisError):
            _see_that_it_is_well(settings_at(redis, current.reads_at))
            node = replace(node, reads_at=current.reads_at)
    elif any(_server_at(settings_at(redis, node.reads_at)) not in (server, b"") for _ in range(_LOOKS)):
        raise RedisRefused(
            f"{address} leads to several replicas in turn, which are not all in sync",
            hint="name one of them in redis.url, or the primary, which knows them",
        )
    return Placed(node)


def _watched_by_sentinels(redis: RedisSettings, address: Address, current: Node) -> Placed:
    ask = partial(ask_sentinel, redis)
    node = _newest_primary(redis, list(primaries(address, ask)), current)
    if redis.read_from == "primary":
        return Placed(node)
    places = (mapped(redis.node_addresses, place) for place in replicas(address, ask))
    return on_a_replica(redis, node, current, places)


def _newest_primary(redis: RedisSettings, named: Iterable[Named], current: Node) -> Node:
    """Return the primary with the newest configuration that confirms its role: a Sentinel may know an older one."""
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
    """Return the node with the first of these replicas that is in sync with it, the current one before the others."""
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
    return Placed(
        node, f"no replica{where} is healthy ({why}): changes are captured and read at the primary until one is"
    )


def _see_that_it_is_well(replica: RedisSettings) -> None:
    connection = RespConnection.open(replica, name="engine-planner", protocol=2, role=REPLICA)
    try:
        if _LINK_UP not in _info(connection, "replication"):
            raise RedisUnreachable(f"{connection.address} is not in sync with its primary")
    finally:
        connection.close()


def replicas_in(info: bytes, node_addresses: Sequence[str]) -> Iterator[str]:
    """Yield the addresses of the replicas that are in sync, from a primary's ``INFO replication``."""
    for host, port in _REPLICA.findall(info):
        yield mapped(node_addresses, join(host.decode(), int(port)))


def _server_at(redis: RedisSettings) -> bytes:
    connection = RespConnection.open(redis, name="engine-planner", protocol=2)
    try:
        return _server_in(connection)
    finally:
        connection.close()


def _server_in(connection: RespConnection) -> bytes:
    """Return which process answers, b"" if it does not say."""
    found = _RUN_ID.search(_info(connection, "server"))
    return found[1] if found else b""


def _info(connection: RespConnection, section: str) -> bytes:
    """Return a section of ``INFO``; nothing if it is refused."""
    reply = connection.call("INFO", section)
    return reply if isinstance(reply, bytes) else b""
