"""Which subscriber process hears what: the feeds of every shard.  (pure)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.routing import glob
from engine.routing.byte_classes import byte_class, channel_prefix, count_endings, cut
from engine.routing.feeds import Feed
from engine.routing.nodes import Node, Topology
from engine.routing.slices import ALL_BYTES, WHOLE, Slice

SHARDS_MAX = 64
_HOT = 1.5
"""A shard that gets this many times its fair share is worth a warning."""

Feeds = tuple[tuple[Feed, ...], ...]
"""By shard: what each subscriber process listens to, which may be nothing."""


def assign(
    topology: Topology,
    shards: int,
    part: Slice = WHOLE,
    *,
    database: int = 0,
    samples: Mapping[str, Sequence[bytes]] = {},
    mapping_prefix: bytes = b"",
) -> Feeds:
    """Return the feeds of every shard of this host.

    ``samples`` are keys by node id: a node that several shards share is cut by what they end in.
    """
    assert 1 <= shards <= SHARDS_MAX
    (node,) = topology.nodes
    endings = count_endings(samples.get(node.id, ()))
    classes = cut(shards, endings, part.last_bytes)
    return tuple(
        (_feed(node, index, members, part, database, mapping_prefix),) for index, members in enumerate(classes)
    )


def _feed(node: Node, index: int, members: bytes, part: Slice, database: int, mapping_prefix: bytes) -> Feed:
    """Return feed number ``index`` of a node. The first hears of every mapping hash: all hosts have the same routes."""
    prefix = channel_prefix(database)
    if members == ALL_BYTES:
        return Feed(node, (prefix + b"*",), ALL_BYTES, takes_empty_key=True)
    patterns = [prefix + b"*[" + byte_class(members) + b"]"]
    takes_empty_key = index == 0 and part.takes_empty_key
    if takes_empty_key:
        patterns.append(prefix)
    if index == 0 and mapping_prefix and not part.is_whole:
        patterns.append(prefix + glob.escape(mapping_prefix) + b"*")
    return Feed(node, tuple(patterns), members, takes_empty_key)


def imbalance(feeds: Sequence[Feed], sample: Sequence[bytes]) -> str:
    """Return a warning where one feed of a node gets far more than its share of the sample, else ""."""
    counts = count_endings(sample)
    total = sum(counts[byte] for feed in feeds for byte in feed.last_bytes)
    if len(feeds) < 2 or not total:
        return ""
    shares = [sum(counts[byte] for byte in feed.last_bytes) / total for feed in feeds]
    busiest = max(range(len(feeds)), key=shares.__getitem__)
    if shares[busiest] < _HOT / len(feeds):
        return ""
    endings = sum(bool(counts[byte]) for feed in feeds for byte in feed.last_bytes)
    return (
        f"shard {busiest + 1} of {len(feeds)} gets {shares[busiest]:.0%} of the sampled keys: shards are cut by the "
        f"last byte of a key, and theirs takes {endings} value{'s' if endings > 1 else ''}; "
        f"{'one shard' if endings == 1 else 'fewer shards'} would do as well"
    )
