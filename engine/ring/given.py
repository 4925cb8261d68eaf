"""The highest version that each invoker gave out for each node: in shared memory, for its successor.

A row per invoker, a word per node number; made before the fork. Every row has one writer, the invoker that holds it.
"""

from __future__ import annotations

import mmap

from engine.ring.protection import make_read_only
from engine.routing.nodes import NODES_MAX

_WORD_BYTES = 8


class GivenRow:
    """What one invoker gave out, by node number."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def set(self, node: int, version: int) -> None:
        """Note a node's highest version."""
        self._words[node] = version

    def get(self, node: int) -> int:
        """Return the highest version of a node, 0 for none."""
        return int(self._words[node])


class GivenTable:
    """The rows of all invokers."""

    def __init__(self, invokers: int, nodes: int = NODES_MAX) -> None:
        self._memory = mmap.mmap(-1, invokers * nodes * _WORD_BYTES)
        words = memoryview(self._memory).cast("Q")
        self.rows = tuple(GivenRow(words[index * nodes : (index + 1) * nodes]) for index in range(invokers))

    def highest(self, node: int) -> int:
        """Return the highest version of a node, whoever gave it out."""
        return max(row.get(node) for row in self.rows)

    def make_read_only(self) -> None:
        """Make this process read-only from now on."""
        make_read_only(self._memory)
