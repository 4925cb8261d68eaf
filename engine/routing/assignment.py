"""Which subscriber process hears what: the feeds of every shard.  (pure)

With as many nodes as shards or more, each feed is a whole node, with the one cheapest pattern, and nodes are
distributed by their weights. With fewer, the heavy ones are cut by byte class, so that each shard has one feed. Earlier
feeds stay where they were, with the same cut, as long as the busiest shard bears little more than it would under a
fresh assignment.

Several hosts cover a cluster without asking each other: as soon as there are as many nodes as hosts, each takes whole
nodes, by the nodes' ids, which all hosts know. With fewer, each takes its byte class of every node. So it always does
if mapping hashes are watched, which every host has to hear of, or if changes come from scans (`is_by_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from msgspec.structs import replace

from engine.config import Settings
from engine.routing import glob
from engine.routing.byte_classes import byte_class, channel_prefix, count_endings, cut
from engine.routing.databases import FIRST, Databases
from engine.routing.feeds import Feed
from engine.routing.nodes import SLOTS, Node, Topology, slots_in
from engine.routing.slices import ALL_BYTES, WHOLE, Slice

SHARDS_MAX = 64
PATIENCE = 1.25
"""The busiest shard may bear this many times what it would in a fresh assignment, before feeds are moved."""
_PRIOR = 0.05
"""The combined weight of nodes about which nothing is known yet, as a share of all."""
_HOT = 1.5
"""A shard that gets this many times its fair share is worth a warning."""

Feeds = tuple[tuple[Feed, ...], ...]
"""By shard: what each subscriber process listens to, which may be nothing."""


def assign(
    topology: Topology,
    shards: int,
    part: Slice = WHOLE,
    *,
    databases: Databases = FIRST,
    weights: Mapping[str, float] = {},
    samples: Mapping[str, Sequence[bytes]] = {},
    mapping_prefix: bytes = b"",
    before: Feeds = (),
    may_cut: bool = True,
    by_bytes: bool = False,
) -> Feeds:
    """Return the feeds of every shard of this host.

    ``weights`` are loads by node id, in any unit (default: a node's slots). ``samples`` are keys by node id: a node
    that several shards share is cut by their last bytes. ``before`` is the assignment that is in force. If nodes may
    not be cut, some shards may stay empty. ``by_bytes``: see `is_by_bytes`.
    """
    assert 1 <= shards <= SHARDS_MAX
    by_nodes = takes_whole_nodes(topology, part, by_bytes=by_bytes or bool(mapping_prefix))
    nodes = nodes_of_slice(topology, part) if by_nodes else sorted(topology.nodes, key=_rank)
    own = ALL_BYTES if by_nodes else part.last_bytes
    loads = _loads(nodes, weights)
    places = _places_before(nodes, before[:shards], own)
    if len(nodes) >= shards or not may_cut:
        shards_of = {id: [shard] for id, shard in _pack(loads, shards, places).items()}
    else:
        shards_of = _share(loads, shards, places)
    found: list[list[Feed]] = [[] for _ in range(shards)]
    for node in nodes:
        place = places.get(node.id, [])
        if shards_of[node.id] == [shard for shard, _ in place]:
            feeds = [replace(feed, node=node) for _, feed in place]
        else:
            classes = cut(len(shards_of[node.id]), count_endings(samples.get(node.id, ())), own)
            feeds = [
                _feed(node, index, members, WHOLE if by_nodes else part, databases, mapping_prefix)
                for index, members in enumerate(classes)
            ]
        for shard, feed in zip(shards_of[node.id], feeds, strict=True):
            found[shard].append(feed)
    return tuple(map(tuple, found))


def is_by_bytes(settings: Settings) -> bool:
    """Tell whether a slice is always a byte class, so that a key stays with its host whatever slots move.

    An engine that scans knows the names of the keys that its passes have found. If a key were deleted while its slot
    moves to another host's node, one host would know it and the other would look for it.
    """
    return settings.capture.source == "scan" or bool(settings.original.mapping_prefix)


def shards_needed(topology: Topology, part: Slice, cores: int, *, by_bytes: bool = False) -> int:
    """Return how many processes are started if that is left to the engine: one per node, up to one per core.

    A cluster may grow, and processes are made at the start, so as many again wait for its new nodes.
    """
    by_nodes = takes_whole_nodes(topology, part, by_bytes=by_bytes)
    nodes = len(nodes_of_slice(topology, part)) if by_nodes else len(topology.nodes)
    wanted = 2 * nodes if topology.is_cluster else nodes
    return max(1, min(wanted, cores, SHARDS_MAX))


def takes_whole_nodes(topology: Topology, part: Slice, *, by_bytes: bool = False) -> bool:
    """Tell whether a slice consists of whole nodes, rather than of a byte class of every node."""
    return part.is_whole or (len(topology.nodes) >= part.count and not by_bytes)


def nodes_of_slice(topology: Topology, part: Slice) -> list[Node]:
    """Return the nodes of a slice, as every host sees them: rendezvous hashing, with counts that differ by at most one.

    A node that joins or leaves moves few others.
    """
    fair, left_over = divmod(len(topology.nodes), part.count)
    counts, found = [0] * part.count, []
    for node in sorted(topology.nodes, key=lambda node: _hash(node.id)):
        takes_more = left_over > 0
        free = [index for index in range(part.count) if counts[index] < fair + takes_more]
        chosen = max(free, key=lambda index: _hash(node.id, index))
        left_over -= counts[chosen] == fair
        counts[chosen] += 1
        if chosen == part.index:
            found.append(node)
    return sorted(found, key=_rank)


def _hash(id: str, index: int = -1) -> bytes:
    return blake2b(b"%d %s" % (index, id.encode()), digest_size=8).digest()


def _rank(node: Node) -> tuple[int, str]:
    """Order nodes by their lowest slots, as people do."""
    return (node.slots[0][0] if node.slots else SLOTS, node.id)


def _loads(nodes: Sequence[Node], weights: Mapping[str, float]) -> dict[str, float]:
    """Return each node's weight; none is 0, or all new nodes would go to one shard."""
    if any(weights.get(node.id, 0) for node in nodes):
        known = {node.id: float(weights.get(node.id, 0)) for node in nodes}
    else:
        known = {node.id: float(sum(1 for _ in slots_in(node.slots))) for node in nodes}
    least = max(1.0, sum(known.values()) * _PRIOR) / max(1, len(nodes))
    return {id: weight + least for id, weight in known.items()}


def _feed(node: Node, index: int, members: bytes, part: Slice, databases: Databases, mapping_prefix: bytes) -> Feed:
    """Return feed number ``index`` of a node. The first hears of every mapping hash: all hosts have the same routes."""
    heads = databases.heads()
    if members == ALL_BYTES:
        return Feed(node, tuple(head + b"*" for head in heads), ALL_BYTES, takes_empty_key=True)
    patterns = [head + b"*[" + byte_class(members) + b"]" for head in heads]
    takes_empty_key = index == 0 and part.takes_empty_key
    if takes_empty_key:
        patterns += heads
    if index == 0 and mapping_prefix and not part.is_whole:
        patterns.append(channel_prefix(databases.home) + glob.escape(mapping_prefix) + b"*")
    return Feed(node, tuple(patterns), members, takes_empty_key)


# The assignment before

_Places = dict[str, list[tuple[int, Feed]]]
"""By node id: the shards, with their feeds, that now have the node or the one whose place it has taken."""


def _places_before(nodes: Sequence[Node], before: Feeds, own: bytes) -> _Places:
    """Return the places of the nodes that had some. A node that took over the slots of one that left has its place."""
    had: _Places = {}
    for shard, feeds in enumerate(before):
        for feed in feeds:
            had.setdefault(feed.node.id, []).append((shard, feed))
    ids = {node.id for node in nodes}
    gone = {id: place for id, place in had.items() if id not in ids}
    places = {id: place for id, place in had.items() if id in ids}
    for node in nodes:
        if node.id not in places and (predecessor := _predecessor(node, gone)):
            places[node.id] = gone.pop(predecessor[0])
    # A cut of other keys is useless: hosts now take whole nodes, or no longer do.
    return {
        id: place for id, place in places.items() if sorted(b"".join(feed.last_bytes for _, feed in place)) == [*own]
    }


def _predecessor(node: Node, gone: _Places) -> list[str]:
    """Return the node, of those that left, most of whose slots this one has."""
    slots = set(slots_in(node.slots))
    shared = {id: len(slots.intersection(slots_in(place[0][1].node.slots))) for id, place in gone.items()}
    return sorted((id for id in shared if shared[id]), key=lambda id: (-shared[id], id))[:1]


# Whole nodes


def _pack(loads: Mapping[str, float], shards: int, places: _Places) -> dict[str, int]:
    """Return a shard for each node, so that the busiest bears about as little as possible, and few nodes move."""
    fresh = _fill(loads, shards, {})
    limit = max(_sums(fresh, loads, shards)) * PATIENCE
    kept: dict[str, int] = {}
    sums = [0.0] * shards
    for id in sorted((id for id in loads if id in places), key=loads.__getitem__, reverse=True):
        shard = places[id][0][0]
        if sums[shard] + loads[id] <= limit:
            sums[shard] += loads[id]
            kept[id] = shard
    packed = _fill(loads, shards, kept)
    return packed if max(_sums(packed, loads, shards)) <= limit else fresh


def _fill(loads: Mapping[str, float], shards: int, kept: Mapping[str, int]) -> dict[str, int]:
    """Add the missing nodes, the heaviest first, each to the shard that bears least."""
    found = dict(kept)
    sums = _sums(kept, loads, shards)
    for id in sorted((id for id in loads if id not in kept), key=loads.__getitem__, reverse=True):
        shard = min(range(shards), key=sums.__getitem__)
        sums[shard] += loads[id]
        found[id] = shard
    return found


def _sums(shard_of: Mapping[str, int], loads: Mapping[str, float], shards: int) -> list[float]:
    sums = [0.0] * shards
    for id, shard in shard_of.items():
        sums[shard] += loads[id]
    return sums


# Nodes that are cut


def _share(loads: Mapping[str, float], shards: int, places: _Places) -> dict[str, list[int]]:
    """Return the shards of each node, one node per shard: as many as its weight deserves."""
    counts = {id: len(place) for id, place in places.items()}
    fresh = _apportion(loads, shards)
    if (
        counts.keys() != loads.keys()
        or sum(counts.values()) != shards
        or _busiest(loads, counts) > _busiest(loads, fresh) * PATIENCE
    ):
        counts = fresh
    found: dict[str, list[int]] = {id: [] for id in loads}
    free = dict.fromkeys(range(shards))
    for id, count in counts.items():
        found[id] = [shard for shard, _ in places.get(id, []) if shard in free][:count]
        for shard in found[id]:
            del free[shard]
    rest = iter(free)
    for id in loads:
        found[id] += [next(rest) for _ in range(counts[id] - len(found[id]))]
    return found


def _apportion(loads: Mapping[str, float], shards: int) -> dict[str, int]:
    """Return how many shards each node gets: one each, then repeatedly one more for the busiest."""
    counts = dict.fromkeys(loads, 1)
    for _ in range(shards - len(loads)):
        counts[max(loads, key=lambda id: loads[id] / counts[id])] += 1
    return counts


def _busiest(loads: Mapping[str, float], counts: Mapping[str, int]) -> float:
    return max(loads[id] / counts[id] for id in loads)


def imbalance(feeds: Sequence[Feed], sample: Sequence[bytes]) -> str:
    """Return a warning if one feed of a node gets far more than its share of the sample, else ""."""
    counts = count_endings(sample)
    total = sum(counts[byte] for feed in feeds for byte in feed.last_bytes)
    if len(feeds) < 2 or not total:
        return ""
    shares = [sum(counts[byte] for byte in feed.last_bytes) / total for feed in feeds]
    busiest = max(range(len(feeds)), key=shares.__getitem__)
    if shares[busiest] < _HOT / len(feeds):
        return ""
    endings = sum(bool(counts[byte]) for feed in feeds for byte in feed.last_bytes)
    address = feeds[0].node.address
    which = f"part {busiest + 1} of {len(feeds)} of {address}" if address else f"shard {busiest + 1} of {len(feeds)}"
    return (
        f"{which} gets {shares[busiest]:.0%} of the sampled keys: shards are cut by the "
        f"last byte of a key, and theirs takes {endings} value{'s' if endings > 1 else ''}; "
        f"{'one shard' if endings == 1 else 'fewer shards'} would do as well"
    )
