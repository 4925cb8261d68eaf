"""Which nodes there are now, and which shards listen to them: asked in a separate process while the engine runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from engine.config import Settings
from engine.routing.assignment import assign, is_by_bytes
from engine.routing.databases import databases_of
from engine.routing.nodes import Topology
from engine.routing.slices import parse_slice
from engine.routing.streams import assign_streams, streams_of
from engine.supervision.errands.planner import Answer, Nodes
from engine.supervision.topology.registry import is_same, with_owners


def ask_nodes(settings: Settings, database: int, before: Nodes) -> Answer:
    """Return the nodes and feeds by what the server says now; ``before`` is what is in force.

    Raises `RedisError` if no node answers.
    """
    from engine.capture.preflight import may_cut
    from engine.redis.topology import ask_topology

    others = [node.address for node in before.topology.nodes if node.address]
    # Nodes that swallow packets take long: the next attempt begins with others.
    random.shuffle(others)
    found = ask_topology(settings.redis, others, before.epoch, before.topology)
    topology = with_owners(found.topology, before.topology)
    epoch = max(before.epoch, found.epoch)
    if is_same(topology, before.topology) and before.is_whole:
        return Nodes(before.topology, before.feeds, epoch, found.told)
    if streams := streams_of(settings.capture):
        part = parse_slice(settings.capture.slice)
        feeds = assign_streams(topology, len(before.feeds), part, streams, database=database)
        return Nodes(topology, feeds, epoch, found.told)
    weights, samples = _weigh(settings, topology)
    feeds = assign(
        topology,
        len(before.feeds),
        parse_slice(settings.capture.slice),
        databases=databases_of(settings.redis, database),
        weights=weights,
        samples=samples,
        mapping_prefix=settings.original.mapping_prefix.encode(),
        before=before.feeds,
        may_cut=may_cut(settings.capture),
        by_bytes=is_by_bytes(settings),
    )
    return Nodes(topology, feeds, epoch, found.told)


def _weigh(settings: Settings, topology: Topology) -> tuple[Mapping[str, float], Mapping[str, Sequence[bytes]]]:
    """Return how many keys the nodes that answer have, and some of them."""
    from engine.capture.preflight import looks_at

    with looks_at(settings.redis, topology.nodes, settings.capture.sample_keys_max, may_miss=True) as looks:
        return {look.node.id: look.keys for look in looks}, {look.node.id: look.sample for look in looks}
