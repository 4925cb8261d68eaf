"""Up to when each subscriber heard each node: in shared memory, for its successor.

A table is one anonymous shared mapping made before the fork: a row per shard, an entry per node. Every row has one
writer at a time (the shard's subscriber), and words are 64-bit stores through a cast view. A subscriber that dies
leaves its row; the supervisor reads from it what the successor has missed.
"""

from __future__ import annotations

import mmap

from engine.model import Missed
from engine.ring.protection import make_read_only
from engine.routing.nodes import NODES_MAX

_WORD_BYTES = 8
_UNTIL, _MARK, _CLOCK, _VERSION = range(4)
_ENTRY_WORDS = 4


class HeardRow:
    """What one shard heard, by node number."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        assert len(words) % _ENTRY_WORDS == 0
        self._words = words

    def set(self, node: int, heard_until_ms: int, server_mark: int, clock_ms: int, version: int = 0) -> None:
        """Note that everything that this node published before is in the rings, or was found (its own clock).

        ``server_mark`` and ``clock_ms`` are those of `Missed`, ``version`` that of `Watermark`.
        """
        words, at = self._words, node * _ENTRY_WORDS
        # A process killed between two stores leaves neither a mark of another moment nor a later version.
        words[at + _MARK] = words[at + _CLOCK] = 0
        words[at + _UNTIL] = heard_until_ms
        words[at + _CLOCK] = clock_ms
        words[at + _MARK] = server_mark
        words[at + _VERSION] = version

    def lower(self, node: int, since_ms: int) -> None:
        """Note that what this node published since then has to be found again."""
        words, at = self._words, node * _ENTRY_WORDS
        words[at + _MARK] = 0
        words[at + _UNTIL] = min(int(words[at + _UNTIL]) or since_ms, since_ms)

    def get(self, node: int) -> Missed:
        """Return what a gap misses that begins where this shard stopped hearing the node; since 0 if it never did."""
        words, at = self._words, node * _ENTRY_WORDS
        mark = int(words[at + _MARK])
        clock_ms = int(words[at + _CLOCK])
        heard_until_ms = int(words[at + _UNTIL])
        # A mark of another moment would be believed: it counts only if it was the same before and after.
        return Missed(heard_until_ms, mark if mark == int(words[at + _MARK]) else 0, clock_ms=clock_ms)

    def version(self, node: int) -> int:
        """Return the version of the topology by which the node was heard; ask for it before `get`."""
        return int(self._words[node * _ENTRY_WORDS + _VERSION])


class HeardTable:
    """The rows of all shards; made before the fork, gone with the last process."""

    def __init__(self, shards: int, nodes: int = NODES_MAX) -> None:
        assert shards > 0
        size = nodes * _ENTRY_WORDS
        self._memory = mmap.mmap(-1, shards * size * _WORD_BYTES)
        words = memoryview(self._memory).cast("Q")
        self.rows = tuple(HeardRow(words[index * size : (index + 1) * size]) for index in range(shards))

    def row(self, shard: int) -> HeardRow:
        """Return the row of this shard."""
        return self.rows[shard]

    def make_read_only(self) -> None:
        """Make this process read-only from now on."""
        make_read_only(self._memory)
