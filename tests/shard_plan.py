"""The shard plan of one node, cut as it always was: what assignments are compared with, and small feeds come from."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.routing import glob
from engine.routing.byte_classes import byte_class, channel_prefix, count_endings, cut
from engine.routing.slices import ALL_BYTES, WHOLE, Slice

SHARDS_MAX = 64


class Shard(msgspec.Struct, frozen=True):
    """A part of the keyspace: ``patterns`` for PSUBSCRIBE; ``last_bytes`` says which keys they match."""

    index: int
    patterns: tuple[bytes, ...]
    last_bytes: bytes
    takes_empty_key: bool

    def owns(self, key: bytes) -> bool:
        """Tell whether this shard's patterns match the key's channel."""
        return key[-1] in self.last_bytes if key else self.takes_empty_key


def plan_shards(
    count: int, database: int, sample: Iterable[bytes], part: Slice = WHOLE, mapping_prefix: bytes = b""
) -> tuple[Shard, ...]:
    """Cut a slice of the keyspace into shards of about equal shares of the sampled keys; the same every time.

    Keys of the sample that are not of the slice don't count. The first shard of a slice hears of every mapping hash,
    whose it may be: all hosts have the same routes.
    """
    assert 1 <= count <= SHARDS_MAX
    prefix = channel_prefix(database)
    if count == 1 and part.is_whole:
        return (Shard(0, (prefix + b"*",), ALL_BYTES, True),)
    shards = []
    own = part.last_bytes
    for index, members in enumerate(cut(count, count_endings(sample), own)):
        patterns = [prefix + b"*[" + byte_class(members) + b"]"]
        takes_empty_key = index == 0 and part.takes_empty_key
        if takes_empty_key:
            patterns.append(prefix)
        if index == 0 and mapping_prefix and not part.is_whole:
            patterns.append(prefix + glob.escape(mapping_prefix) + b"*")
        shards.append(Shard(index, tuple(patterns), members, takes_empty_key))
    return tuple(shards)
