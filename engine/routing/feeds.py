"""Feeds: one subscription on one node, and which keys it covers.  (pure)"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.routing.nodes import Node, slot_of


class Feed(msgspec.Struct, frozen=True):
    """A node, whole or a part of it: ``patterns`` for PSUBSCRIBE, ``last_bytes`` say which keys they match.

    ``streams`` are those on the node that are read, if changes come from streams.
    """

    node: Node
    patterns: tuple[bytes, ...]
    last_bytes: bytes
    takes_empty_key: bool
    streams: tuple[bytes, ...] = ()

    def owns(self, key: bytes) -> bool:
        """Tell whether the key belongs to the node, and its channel matches the patterns."""
        is_matched = key[-1] in self.last_bytes if key else self.takes_empty_key
        return is_matched and (self.node.has_all() or self.node.has_slot(slot_of(key)))


def nodes_of(shards: Iterable[Iterable[Feed]]) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the nodes that each shard has feeds on."""
    return tuple(tuple(sorted({feed.node.number for feed in feeds})) for feeds in shards)
