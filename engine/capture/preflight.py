"""What has to be true of the server before capture starts, and which shard captures what; run in the planner process.

The engine is a guest: keys are sampled, not scanned, and nothing is written except, if ``CONFIG`` is refused,
short-lived canaries. In a cluster all of this is true of each node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from engine.capture.node_look import NodeLook
from engine.capture.notifications import needed_flags
from engine.config import CaptureSettings, RedisSettings, Settings
from engine.errors import NotificationsOff, RedisRefused, RedisUnreachable
from engine.redis.address import parse_url
from engine.redis.connection import RespConnection
from engine.redis.databases import in_a_cluster
from engine.redis.eviction import QUESTIONS, is_replica, policy_of
from engine.redis.node import settings_for
from engine.redis.topology import Found, ask_topology
from engine.routing.assignment import Feeds, assign, is_by_bytes, shards_needed
from engine.routing.databases import Databases, databases_of
from engine.routing.nodes import NODES_MAX, Node, Topology
from engine.routing.routes import RouteTable
from engine.routing.slices import Slice, parse_slice, scope_of
from engine.routing.streams import assign_streams, streams_of
from engine.text import counted

_NODES_AT_ONCE = 16

_T = TypeVar("_T")


class CapturePlan(msgspec.Struct, frozen=True):
    """Which nodes there are, which shards listen to them, and what the user should know about the server.

    ``epoch`` is the newest that was seen, ``members`` are the ids of all nodes of a cluster, replicas too. It
    ``is_whole`` unless dead nodes have no feeds. ``server_ms`` is the clock of each node, by its id.
    """

    topology: Topology
    epoch: int
    members: tuple[str, ...]
    is_whole: bool
    feeds: Feeds
    database: int
    databases: tuple[int, ...]
    server: str
    warnings: tuple[str, ...]
    scope: str
    server_ms: dict[str, int]


def prepare_capture(settings: Settings, table: RouteTable, *, is_running: bool = False) -> CapturePlan:
    """Ask for the nodes, sample their keys, assign the feeds, subscribe to them once, see that all nodes notify.

    While the engine ``is_running``, nodes of a cluster that can't be reached at the moment are skipped. Raises
    `RedisUnreachable`, `RedisRefused` or `NotificationsOff`, each with its remedy.
    """
    redis, capture = settings.redis, settings.capture
    found = ask_topology(redis)
    address, part = parse_url(redis.url), parse_slice(capture.slice)
    databases = databases_of(redis, address.database)
    _check(found, address.database, is_running=is_running, are_several=databases.are_several)
    topology = numbered(found.topology)
    nodes = [node for node in topology.nodes if node.id not in found.failed]
    may_miss = is_running and topology.is_cluster
    sample_keys_max = capture.sample_keys_max if capture.source == "keyspace" else 0
    with looks_at(redis, nodes, sample_keys_max, may_miss=may_miss) as looks:
        if not looks:
            raise RedisUnreachable(f"no node of the cluster of {found.asked} can be reached", hint="it is retried")
        by_bytes, cores = is_by_bytes(settings), len(os.sched_getaffinity(0))
        shards = shards_needed(topology, part, cores, by_bytes=by_bytes) if capture.shards == "auto" else capture.shards
        if streams := streams_of(capture):
            assigned = assign_streams(topology, shards, part, streams, database=address.database)
        else:
            assigned = assign(
                topology,
                shards,
                part,
                databases=databases,
                weights={look.node.id: look.keys for look in looks},
                samples={look.node.id: look.sample for look in looks},
                mapping_prefix=settings.original.mapping_prefix.encode(),
                may_cut=may_cut(capture),
                by_bytes=by_bytes,
            )
        # No subscriber is ready before it listens, and a dead node is listened to when it is back.
        feeds = tuple(tuple(feed for feed in feeds if feed.node.id not in found.failed) for feeds in assigned)
        return CapturePlan(
            topology,
            found.epoch,
            found.members,
            feeds == assigned,
            feeds,
            address.database,
            databases.numbers if databases.are_several else (),
            _describe(looks, topology, databases),
            tuple(dict.fromkeys((*found.told, *_of_failed(found), *_warnings(settings, table, looks, feeds)))),
            # Any node may be named in the URL of a cluster, and another one tomorrow: its nodes are known by their ids.
            scope=_scope_of("cluster" if topology.is_cluster else f"{address}/{databases.in_scope()}", capture, part),
            server_ms={look.node.id: look.server_ms for look in looks},
        )


def may_cut(capture: CaptureSettings) -> bool:
    """Tell whether several processes may share a node: a scan of a part would take as long as a scan of the whole."""
    return capture.shards != "auto" and capture.source == "keyspace"


def _scope_of(server: str, capture: CaptureSettings, part: Slice) -> str:
    """Return what the checkpoint is true of: what is settled of streams says nothing about all keys."""
    return scope_of(server, part) + (" streams" if capture.source == "stream" else "")


def numbered(topology: Topology) -> Topology:
    """Return the topology that an engine begins with: its nodes are numbered from 0. Raises `RedisRefused`."""
    if len(topology.nodes) > NODES_MAX:
        raise RedisRefused(
            f"the cluster has {len(topology.nodes)} primaries, and an engine can tell {NODES_MAX} apart",
            hint="merge some of them",
        )
    nodes = [msgspec.structs.replace(node, number=number) for number, node in enumerate(topology.nodes)]
    return msgspec.structs.replace(topology, nodes=tuple(nodes), version=1)


def evictions_of(redis: RedisSettings, topology: Topology | None = None) -> tuple[str, bool]:
    """Return the policy by which a node evicts, "" if none does or says so; and whether one of them is a replica."""
    policies, replicas = set(), False
    for node in (topology or Topology()).nodes:
        connection = RespConnection.open(settings_for(redis, node), name="engine-planner")
        try:
            replies = connection.pipeline(b"".join(QUESTIONS), len(QUESTIONS))
        finally:
            connection.close()
        policies.add(policy_of(replies))
        replicas |= is_replica(replies)
    return max(policies), replicas


def _check(found: Found, database: int, *, is_running: bool, are_several: bool) -> None:
    if found.topology.is_cluster and are_several:
        raise in_a_cluster(found.asked)
    if found.topology.is_cluster and database:
        raise RedisRefused(
            f"{found.asked} is a node of a cluster, which has database 0 alone, and redis.url names {database}",
            hint="leave the database out of redis.url",
        )
    fault = found.fault()
    if fault is not None and not is_running:
        raise fault


def _of_failed(found: Found) -> list[str]:
    return [
        f"the node {node.address} ({node.id[:8]}) has failed: its keys wait until it is back, or another has its slots"
        for node in found.topology.nodes
        if node.id in found.failed
    ]


def _describe(looks: Sequence[NodeLook], topology: Topology, databases: Databases) -> str:
    several = f", databases {databases.in_words()}" if databases.are_several else ""
    return looks[0].describe() + (
        f", {counted(len(topology.nodes), 'primary', 'primaries')}" if topology.is_cluster else several
    )


@contextmanager
def looks_at(
    redis: RedisSettings, nodes: Sequence[Node], sample_keys_max: int, *, may_miss: bool
) -> Iterator[list[NodeLook]]:
    """Yield a look at each of these nodes, or at those that can be reached, in their order; raise `RedisError`."""
    opened: list[NodeLook] = []

    def look(node: Node) -> None:
        try:
            opened.append(NodeLook.open(redis, node, sample_keys_max))
        except RedisUnreachable:
            if not may_miss:
                raise

    try:
        _for_each(look, nodes)
        yield sorted(opened, key=lambda look: nodes.index(look.node))
    finally:
        for one in opened:
            one.close()


def _for_each(work: Callable[[_T], None], things: Iterable[_T]) -> None:
    """Do this with each, several at once; raise the first error in order once all are done."""
    with ThreadPoolExecutor(_NODES_AT_ONCE) as pool:
        done = [pool.submit(work, thing) for thing in things]
    for one in done:
        one.result()


def _warnings(settings: Settings, table: RouteTable, looks: Sequence[NodeLook], feeds: Feeds) -> list[str]:
    """Have each node tried; return what the user should know, in the order of the nodes."""
    needed = needed_flags(table, settings.original.mapping_prefix)
    said: dict[int, Sequence[str]] = {}
    off: list[NotificationsOff] = []

    def try_all(look: NodeLook) -> None:
        on_node = [feed for of_shard in feeds for feed in of_shard if feed.node.id == look.node.id]
        try:
            if settings.capture.source == "stream":
                warnings = look.try_streams(on_node, settings.capture)
            elif settings.capture.source == "scan":
                warnings = look.try_scans() if on_node else ()
            else:
                warnings = look.try_all(on_node, needed) if on_node else ()
        except NotificationsOff as error:
            off.append(error)
            warnings = error.warnings
        said[look.node.number] = warnings

    _for_each(try_all, looks)
    warnings = [warning for number in sorted(said) for warning in said[number]]
    if off:
        off[0].warnings = tuple(dict.fromkeys(warnings))
        raise off[0]
    return warnings
