"""Which nodes a server has: asked of one of them, whichever answers.

Anybody in a cluster knows all of it, but not always the newest: who was cut off from the others learns last. So a node
is believed that says that the cluster is up and that knows of no older epoch than was known here; else the others are
asked, and who knows the highest epoch is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec
from msgspec.structs import replace

from engine.config import RedisSettings
from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.redis.address import join, mapped
from engine.redis.cluster_replies import NodeLine, addresses_in, facts_in, nodes_in
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.redis.node import Placed, find_node, on_a_replica, replicas_in, settings_at
from engine.routing.nodes import SLOTS, Node, Topology, ranges_in_words, unowned_slots

_LOCAL = "127.0.0.1"
_QUESTIONS = (("CLUSTER", "INFO"), ("CLUSTER", "NODES"), ("CLUSTER", "SLOTS"))


class Found(msgspec.Struct, frozen=True):
    """What one node says of all. Its nodes have no numbers yet.

    ``replicas`` are the addresses of a node's replicas that are well, by the node's id. ``epoch`` is the cluster's
    newest, ``is_up`` whether it serves keys, as far as the asked node knows. ``failed`` are the ids of nodes that the
    others hold for dead, ``members`` those of all that the cluster has not forgotten, replicas too. ``told`` is what
    the user should know of replicas that are read.
    """

    topology: Topology
    replicas: dict[str, tuple[str, ...]] = {}
    epoch: int = 0
    is_up: bool = True
    failed: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    asked: str = ""
    told: tuple[str, ...] = ()

    def fault(self) -> RedisUnreachable | None:
        """Return why a start has to wait for the cluster, None where it has not."""
        unowned = unowned_slots(self.topology)
        if unowned:
            return RedisUnreachable(
                f"the cluster of {self.asked} is not whole: nobody has {ranges_in_words(unowned)}",
                hint="give them to a node: CLUSTER ADDSLOTSRANGE, or redis-cli --cluster fix",
            )
        if not self.is_up:
            dead = [f"{node.address} ({node.id[:8]})" for node in self.topology.nodes if node.id in self.failed]
            return RedisUnreachable(
                f"the cluster of {self.asked} is down (cluster_state:fail)"
                + (f": {', '.join(dead)} failed" if dead else ""),
                hint="see CLUSTER INFO and CLUSTER NODES; it is up again once a majority of its primaries are",
            )
        return None


def ask_topology(
    redis: RedisSettings, others: Sequence[str] = (), epoch_least: int = 0, current: Topology | None = None
) -> Found:
    """Return what the server of ``redis.url`` says of its nodes, or one of these other addresses in its stead.

    With ``redis.read_from = "replica"`` each node has the replica that is read: the ``current`` one, as long as it is
    well. Raises `RedisError` where nobody answers, or may be asked.
    """
    known = {node.id: node for node in (current or Topology()).nodes}
    found = _believed(redis, others, epoch_least)
    if not found.topology.is_cluster:
        node, told = find_node(redis, known.get(""))
        return replace(found, topology=Topology((replace(node, number=0),)), told=(told,) if told else ())
    if redis.read_from != "replica":
        return found
    placed = [
        on_a_replica(redis, node, known.get(node.id, node), found.replicas.get(node.id, ()))
        if node.slots and node.id not in found.failed
        else Placed(node)
        for node in found.topology.nodes
    ]
    topology = replace(found.topology, nodes=tuple(node for node, _ in placed))
    return replace(found, topology=topology, told=tuple(told for _, told in placed if told))


def _believed(redis: RedisSettings, others: Sequence[str], epoch_least: int) -> Found:
    errors: list[RedisError] = []
    views: list[Found] = []
    for settings in (redis, *(settings_at(redis, address) for address in others)):
        try:
            found = _ask(settings)
        except RedisError as error:
            errors.append(error)
            continue
        views.append(found)
        if not found.topology.is_cluster or (found.is_up and found.epoch >= epoch_least):
            return found
    if not views:
        raise errors[0]
    return max(views, key=lambda view: (view.epoch, view.is_up))


def _ask(redis: RedisSettings) -> Found:
    connection = RespConnection.open(redis, name="engine-planner", database=0)
    try:
        mode = connection.facts.get("mode")
        if mode == "sentinel":
            raise RedisRefused(
                f"{connection.address} is a Sentinel, which holds no keys",
                hint="name its service too: redis+sentinel://HOST:PORT/SERVICE",
            )
        if mode != "cluster":
            replicas = _replicas_of(connection, redis.node_addresses)
            return Found(Topology(), {"": replicas}, asked=str(connection.address))
        replies = connection.pipeline(b"".join(pack(*question) for question in _QUESTIONS), len(_QUESTIONS))
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(connection.address, "tell the nodes of its cluster", str(reply))
        return _found(connection, redis.node_addresses, *replies)
    finally:
        connection.close()


def _found(connection: RespConnection, node_addresses: Sequence[str], info: bytes, nodes: bytes, slots: Any) -> Found:
    host = connection.address.host or _LOCAL
    facts, lines, told = facts_in(info), nodes_in(nodes), addresses_in(slots, host)
    by_name = any(told.get(line.id, ("",))[0] == line.name for line in lines if line.name and line.name != line.ip)

    def address_of(line: NodeLine) -> str:
        own = ((line.name if by_name else "") or line.ip or host, line.port)
        return mapped(node_addresses, join(*told.get(line.id, own)))

    primaries = [line for line in lines if line.is_primary]
    replicas: dict[str, tuple[str, ...]] = {}
    for line in sorted(lines, key=lambda line: line.id):
        if line.is_replica:
            replicas[line.primary_id] = (*replicas.get(line.primary_id, ()), address_of(line))
    found = [
        Node(id=line.id, address=address_of(line), slots=tuple(sorted(line.slots)), epoch=line.epoch)
        for line in primaries
    ]
    found.sort(key=lambda node: (node.slots or ((SLOTS, SLOTS),), node.id))
    return Found(
        Topology(tuple(found), is_cluster=True),
        replicas,
        epoch=int(facts.get("cluster_current_epoch", 0)),
        is_up=facts.get("cluster_state") == "ok",
        failed=tuple(line.id for line in primaries if "fail" in line.flags),
        members=tuple(line.id for line in lines),
        asked=str(connection.address),
    )


def _replicas_of(connection: RespConnection, node_addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of the replicas of a server without cluster mode that are in step; none where it is one."""
    reply = connection.call("INFO", "replication")
    return tuple(replicas_in(reply, node_addresses)) if isinstance(reply, bytes) else ()
