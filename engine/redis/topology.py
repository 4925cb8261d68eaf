"""Asks one of a server's nodes, whichever answers, which nodes there are.

Every node of a cluster knows all of it, but not always its newest state: a node that was cut off learns last. So a node
is believed if it says that the cluster is up and knows no older epoch than is known here. Otherwise the others are
asked, and the one that knows the highest epoch is believed.
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
from engine.redis.connection import ONE_RUNS, RespConnection, pack
from engine.redis.errors import nobody_answers, refusal
from engine.redis.node import Placed, each_host, find_node, on_a_replica, settings_at
from engine.routing.nodes import SLOTS, Node, Topology, ranges_in_words, unowned_slots

_LOCAL = "127.0.0.1"
_QUESTIONS = (("CLUSTER", "INFO"), ("CLUSTER", "NODES"), ("CLUSTER", "SLOTS"))


class Found(msgspec.Struct, frozen=True):
    """What one node says about all. Its nodes have no numbers yet.

    ``replicas`` are the addresses of a cluster's healthy replicas, by the id of their node. ``epoch`` is the cluster's
    newest, ``is_up`` whether it serves keys, as far as the asked node knows. ``failed`` are the ids of nodes that the
    others consider dead, ``members`` those of all nodes that the cluster has not forgotten, including replicas.
    ``told`` is what the user should know about the nodes that were asked, and about replicas that are read.
    """

    topology: Topology
    replicas: dict[str, tuple[str, ...]] = {}
    epoch: int = 0
    is_up: bool = True
    failed: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    asked: str = ""
    told: tuple[str, ...] = ()
    refused: RedisError | None = None
    """Why a start is refused, though a running engine continues."""

    def fault(self) -> RedisError | None:
        """Return why a start has to wait for the cluster, or for somebody to name another server, else None."""
        if self.refused is not None:
            return self.refused
        unowned = unowned_slots(self.topology)
        if unowned:
            return RedisUnreachable(
                f"the cluster of {self.asked} is incomplete: no node has {ranges_in_words(unowned)}",
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
    """Return what the server in ``redis.url``, or one of these other addresses instead, says about its nodes.

    If a cluster is ``current``, the other addresses are asked first. With ``redis.read_from = "replica"`` each node has
    the replica that is read: the current one, as long as it is healthy. Raises `RedisError` if no node answers, or none
    may be asked.
    """
    known = {node.id: node for node in (current or Topology()).nodes}
    is_running = current is not None and current.is_cluster
    found = _believed(redis, others, epoch_least, is_running=is_running)
    if not found.topology.is_cluster:
        node, told, refused = find_node(redis, known.get(""))
        topology = Topology((replace(node, number=0),))
        return replace(found, topology=topology, told=(*found.told, *filter(None, [told])), refused=refused)
    if redis.read_from != "replica":
        return found
    placed = [
        on_a_replica(redis, node, known.get(node.id, node), found.replicas.get(node.id, ()))
        if node.slots and node.id not in found.failed
        else Placed(node)
        for node in found.topology.nodes
    ]
    topology = replace(found.topology, nodes=tuple(one.node for one in placed))
    return replace(found, topology=topology, told=(*found.told, *(one.told for one in placed if one.told)))


def _believed(redis: RedisSettings, others: Sequence[str], epoch_least: int, *, is_running: bool) -> Found:
    errors: list[RedisError] = []
    views: list[Found] = []
    hosts, elsewhere = each_host(redis), [settings_at(redis, address) for address in others]
    # A host that swallows packets costs seconds, and the named one is dead as often as any other.
    for settings in (*elsewhere, *hosts) if is_running else (*hosts, *elsewhere):
        try:
            found = _ask(settings)
        except RedisError as error:
            errors.append(error)
            continue
        is_cluster = found.topology.is_cluster
        if not is_cluster and settings in elsewhere:
            # Another server has the address now.
            continue
        if (is_cluster and found.is_up and found.epoch >= epoch_least) or (not is_cluster and len(hosts) == 1):
            return found if is_running else _with_errors(found, errors)
        views.append(found)
    if not views:
        if len(hosts) > 1:
            raise nobody_answers("no host in redis.url answers", errors, ONE_RUNS)
        raise errors[-1 if is_running else 0]
    best = max(views, key=lambda view: (view.topology.is_cluster, view.epoch, view.is_up))
    if not best.topology.is_cluster:
        raise RedisRefused(
            f"redis.url names several hosts, and {best.asked} is not a node of a cluster",
            hint="name one server, or the Sentinels that watch it: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE",
        )
    return best if is_running else _with_errors(best, errors)


def _with_errors(found: Found, errors: Sequence[RedisError]) -> Found:
    told = tuple(f"{error.message}; {found.asked} is asked for the nodes instead" for error in errors)
    return replace(found, told=told) if told else found


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
            return Found(Topology(), asked=str(connection.address))
        replies = connection.pipeline(b"".join(pack(*question) for question in _QUESTIONS), len(_QUESTIONS))
        info, nodes, slots = replies
        for reply in (info, nodes):
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(connection.address, "list the nodes of its cluster", str(reply))
        if isinstance(slots, hiredis.ReplyError) and not _is_alone(nodes):
            raise refusal(connection.address, "list the nodes of its cluster", str(slots))
        return _found(connection, redis.node_addresses, info, nodes, slots)
    finally:
        connection.close()


def _is_alone(nodes: bytes) -> bool:
    """Tell whether there is only one node: it is reached at the address that was asked."""
    return len([line for line in nodes_in(nodes) if line.is_primary]) == 1


def _found(connection: RespConnection, node_addresses: Sequence[str], info: bytes, nodes: bytes, slots: Any) -> Found:
    host = connection.address.host or _LOCAL
    facts, lines = facts_in(info), nodes_in(nodes)
    if isinstance(slots, hiredis.ReplyError):
        told = {line.id: (host, connection.address.port) for line in lines if line.is_primary}
    else:
        told = addresses_in(slots, host)
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
