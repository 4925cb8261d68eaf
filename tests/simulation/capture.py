"""The subscribers' part: the engine's own dirty sets and ring writers, fed with events from memory."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from engine.capture.dirty import DirtyKeys, interests
from engine.capture.flush import runs_of
from engine.capture.shared import forced
from engine.model import Missed, RouteMask, Watermark
from engine.ring.codec import encode_runs, encode_watermarks
from engine.ring.ring import RingSet
from engine.routing.events import REPAIR, REPAIR_GONE
from engine.routing.routes import RouteTable
from tests.simulation.cache import Cache
from tests.simulation.world import World

SHARDS = 2
RING_BYTES = 2_048
MARK = 7
"""The server's, all the time."""
FRAME_CHANGES_MAX = 6


def shard_of(key: bytes) -> int:
    """Return who hears of this key."""
    return crc32(key) // 7 % SHARDS


class Capture:
    """Subscribers that never fail: what they hear is in their dirty set, then in a ring."""

    def __init__(self, world: World, cache: Cache, rings: RingSet, table: RouteTable) -> None:
        self._world = world
        self._cache = cache
        self.table = table
        self._writers = [rings.ring(shard, 0).writer() for shard in range(SHARDS)]
        self.dirty = [self._dirty_keys() for _ in range(SHARDS)]
        self.frames: list[list[tuple[int, list[bytes]]]] = [[] for _ in range(SHARDS)]
        """By shard: (end, keys) of what was written and not seen released."""
        self._mark_due = [False] * SHARDS

    @staticmethod
    def _dirty_keys() -> DirtyKeys:
        return DirtyKeys(prefix_bytes=0, invokers=1, keys_max=1_000, key_bytes_max=1_000, mapping_prefix=b"")

    def hear(self, events: Iterable[tuple[bytes, str]]) -> None:
        """Take in events, and write what fits."""
        unix_ms = self._world.now_ms()
        replies: list[list[list[bytes]]] = [[] for _ in range(SHARDS)]
        for key, event in events:
            replies[shard_of(key)].append([b"pmessage", b"*", key, event.encode()])
        for dirty, messages in zip(self.dirty, replies, strict=True):
            following = iter(messages)
            dirty.take_in(lambda following=following: next(following, False), interests(self.table), unix_ms)  # type: ignore[misc]
        self.flush()

    def repair(self, missed: Missed) -> None:
        """Mark every key that has changed since: a scan that finds all at once."""
        found, gone = self.table.for_repairs(), self.table.for_deletes()
        unix_ms, routes = self._world.now_ms(), missed.routes

        def mask_of_found(key: bytes) -> RouteMask:
            return found.mask(key) & routes

        def mask_of_gone(key: bytes) -> RouteMask:
            return gone.mask(key) & routes

        for key, kind in self._cache.kinds.items():
            if self._cache.changed_ms[key] >= missed.since_ms:
                is_gone = kind == "none"
                mask_of, event = (mask_of_gone, REPAIR_GONE) if is_gone else (mask_of_found, REPAIR)
                self.dirty[shard_of(key)].mark([key], mask_of, event, unix_ms)
        self.flush()

    def force(self, key: bytes) -> None:
        """Mark a key that an audit has found missing."""
        mask_of = self.table.for_repairs().mask
        self.dirty[shard_of(key)].mark([key], lambda one: forced(mask_of(one)), REPAIR, self._world.now_ms())
        self.flush()

    def want_marks(self) -> None:
        """Have every shard send a watermark as soon as all that it heard is in its ring."""
        self._mark_due = [True] * SHARDS
        self.flush()

    def is_flushed(self) -> bool:
        """Tell whether all that was heard is in the rings."""
        return not any(map(len, self.dirty))

    def flush(self) -> None:
        """Write what fits into the rings."""
        for shard, (dirty, writer) in enumerate(zip(self.dirty, self._writers, strict=True)):
            while bucket := dirty.buckets[0]:
                keys = list(bucket)[:FRAME_CHANGES_MAX]
                if not writer.offer(encode_runs(runs_of(keys, list(bucket.values())[:FRAME_CHANGES_MAX]))):
                    break
                self.frames[shard].append((writer.written, keys))
                dirty.remove(0, keys)
            if self._mark_due[shard] and not len(dirty):
                mark = Watermark(self._world.true_ms, MARK)
                self._mark_due[shard] = not writer.offer(encode_watermarks([mark]))
