"""What a subscriber tells its supervisor now and then: once, however often it comes about in a short time."""

from __future__ import annotations

from collections.abc import Callable

from engine.lifecycle import MappingChanged, Message, TopologyChanged

MAPPING_DEBOUNCE_MS = 100
TOPOLOGY_DEBOUNCE_MS = 100
TOPOLOGY_EVERY_MS = 1_000
"""Nodes are asked anew this often at most, by the wish of one subscriber."""


class Notices:
    """What is due to be told. Raises nothing: a supervisor that is gone is another's business."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        self._report = report
        self._mappings_due_ms = 0
        self._topology_due_ms = self._topology_from_ms = 0
        self._reason = ""

    def mappings_changed(self, moment_ms: int) -> None:
        """Have it told that a mapping hash is another."""
        self._mappings_due_ms = self._mappings_due_ms or moment_ms + MAPPING_DEBOUNCE_MS

    def topology_changed(self, reason: str, moment_ms: int) -> None:
        """Have it told that the nodes may be others; the first reason stands for those that follow at once."""
        if not self._topology_due_ms:
            self._reason = reason
            self._topology_due_ms = max(moment_ms + TOPOLOGY_DEBOUNCE_MS, self._topology_from_ms)

    def tell(self, moment_ms: int) -> None:
        """Tell what is due."""
        if self._mappings_due_ms and moment_ms >= self._mappings_due_ms:
            self._mappings_due_ms = 0
            self._report(MappingChanged())
        if self._topology_due_ms and moment_ms >= self._topology_due_ms:
            self._topology_due_ms, self._topology_from_ms = 0, moment_ms + TOPOLOGY_EVERY_MS
            self._report(TopologyChanged(self._reason))

    def wait_ms(self, moment_ms: int) -> int | None:
        """Return how long until something is due, None where nothing will be."""
        due = [due_ms for due_ms in (self._mappings_due_ms, self._topology_due_ms) if due_ms]
        return max(1, min(due) - moment_ms) if due else None
