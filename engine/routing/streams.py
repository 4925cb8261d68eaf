"""Streams that applications write: which shard reads which, and the name of an entry that carries its record.  (pure)

A stream is read by one subscriber process of one host at a time, wherever its slot is: number *n* of the list belongs
to slice *n modulo K*, so hosts agree without asking each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from engine.config import CaptureSettings, RouteSettings
from engine.routing import glob
from engine.routing.assignment import Feeds
from engine.routing.byte_classes import channel_prefix
from engine.routing.feeds import Feed
from engine.routing.nodes import Topology, slot_of
from engine.routing.slices import ALL_BYTES, Slice

SEPARATOR = b"/"
"""Separates a stream from an entry's id, in which it does not occur."""


def streams_of(capture: CaptureSettings) -> tuple[bytes, ...]:
    """Return the names of all streams, none if changes come from elsewhere."""
    return tuple(name.encode() for name in capture.streams) if capture.source == "stream" else ()


def assign_streams(
    topology: Topology, shards: int, part: Slice, streams: Sequence[bytes], *, database: int = 0
) -> Feeds:
    """Return, by shard, one feed for each node that has streams of it; a stream without an owner waits for one."""
    owners = topology.owners()
    found: list[dict[str, list[bytes]]] = [{} for _ in range(shards)]
    for number, stream in enumerate(streams):
        if number % part.count != part.index:
            continue
        node = owners[slot_of(stream)] if topology.is_cluster else topology.nodes[0]
        if node is not None:
            found[number // part.count % shards].setdefault(node.id, []).append(stream)
    # By their ids: when nodes are asked for again, they have no numbers yet.
    by_id = {node.id: node for node in topology.nodes}
    # The pattern is that of a scan: a stream's entries may name any key.
    patterns = (channel_prefix(database) + b"*",)
    return tuple(
        tuple(
            Feed(replace(by_id[id], reads_at=""), patterns, ALL_BYTES, True, tuple(names))
            for id, names in sorted(of_shard.items())
        )
        for of_shard in found
    )


def entry_key(stream: bytes, entry_id: bytes) -> bytes:
    """Return what represents an entry where other sources have a key."""
    return stream + SEPARATOR + entry_id


def entry_of(key: bytes) -> tuple[bytes, bytes]:
    """Return the stream and the id of an entry."""
    stream, _, entry_id = key.rpartition(SEPARATOR)
    return stream, entry_id


def for_entries(route: RouteSettings, streams: Sequence[bytes]) -> RouteSettings:
    """Return the route as it takes entries: its ``keys`` are patterns of streams, whose entries are all wanted."""
    patterns = [pattern.encode() for pattern in route.keys]
    if any(map(glob.takes_everything, patterns)):
        return replace(route, events=("*",))
    matches = glob.matcher(patterns)
    keys = [glob.escape(stream + SEPARATOR).decode() + "*" for stream in streams if matches(stream)]
    # A route that matches no stream takes nothing: no entry's key ends in the separator.
    return replace(route, events=("*",), keys=tuple(keys) or ("/",))
