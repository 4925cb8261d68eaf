"""What all children share: rings, wake-ups, and a row per child. Made before the first fork, it outlives them."""

from __future__ import annotations

from engine.config import OtlpSettings
from engine.ring.counters import Board
from engine.ring.given import GivenTable
from engine.ring.heard import HeardTable
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.supervision.children import Child, Role
from engine.tracing.line import SpanLine


class SharedMemory:
    """The rings between all shards and invokers, up to when shards heard nodes, and what children report."""

    def __init__(self, shards: int, invokers: int, ring_bytes: int, otlp: OtlpSettings | None = None) -> None:
        self.rings = RingSet(shards, invokers, ring_bytes)
        self.wakes = tuple(Wake() for _ in range(invokers))
        self.board = Board(shards + invokers)
        self.heard = HeardTable(shards)
        self.given = GivenTable(invokers)
        self.spans = SpanLine() if otlp is not None and otlp.traced_changes_per_million else None
        """From invokers to the console, if changes are traced."""
        self._rings_of = [[self.rings.ring(shard, invoker) for shard in range(shards)] for invoker in range(invokers)]

    def backlog_bytes(self, child: Child) -> int:
        """Return what waits in the rings for this child: written, and not settled."""
        if child.role is Role.SUBSCRIBER:
            return 0
        return sum(ring.written - ring.released for ring in self._rings_of[child.index])

    def make_read_only(self) -> None:
        """Make all of it read-only in this process from now on: a write kills only this one. Raises OSError."""
        for part in (self.rings, self.board, self.heard, self.given):
            part.make_read_only()
