"""What a subscriber tells its supervisor now and then: once, however often it happens within a short time."""

from __future__ import annotations

from collections.abc import Callable

from engine.lifecycle import MappingChanged, Message, TopologyChanged

MAPPING_DEBOUNCE_MS = 100
TOPOLOGY_DEBOUNCE_MS = 100
TOPOLOGY_EVERY_MS = 1_000
"""Nodes are asked again this often at most, by the wish of one subscriber."""


class Notices:
    """What is due to be told. Raises nothing: a vanished supervisor is handled elsewhere."""

    def __init__(self, report: Callable[[Message], None]) -> None:
        self._report = report
        self._mappings_due_ms = 0
        self._topology_due_ms = self._topology_from_ms = 0
        self._reason = ""

    def mappings_changed(self, moment_ms: int) -> None:
        """Request a message that a mapping hash has changed."""
        self._mappings_due_ms = self._mappings_due_ms or moment_ms + MAPPING_DEBOUNCE_MS

    def topology_changed(self, reason: str, moment_ms: int) -> None:
        """Request a message that the nodes may have changed; the first reason stands for those that follow at once."""
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
        """Return how long until something is due, None if nothing will be."""
        due = [due_ms for due_ms in (self._mappings_due_ms, self._topology_due_ms) if due_ms]
        return max(1, min(due) - moment_ms) if due else None
