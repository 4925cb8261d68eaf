"""Repairs for subscribers, until each has taken them on: one that dies first leaves them to its successor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from msgspec.structs import replace

from engine.lifecycle import Message, RepairWanted
from engine.model import THE_BEGINNING_MS
from engine.ring.heard import HeardTable
from engine.supervision.children import Child


class Repairs:
    """By subscriber. ``send`` sends a child a message, if possible; ``heard`` is what subscribers have heard."""

    def __init__(self, send: Callable[[int, Message], None], heard: HeardTable) -> None:
        self._send, self._heard = send, heard
        self._numbers = count(1)
        self._open: dict[int, dict[int, RepairWanted]] = {}

    def want(self, message: RepairWanted, subscribers: tuple[Child, ...]) -> None:
        """Have this shard, or all of them, repair; even one whose subscriber is dead at the moment."""
        for child in subscribers if message.shard < 0 else subscribers[message.shard :][:1]:
            wanted = replace(message, number=next(self._numbers))
            self._open.setdefault(child.number, {})[wanted.number] = wanted
            self._send(child.number, wanted)

    def taken(self, child: int, number: int) -> None:
        """Take in that a subscriber has begun, and that its own successors know where it began."""
        self._open.get(child, {}).pop(number, None)

    def succeed(self, child: Child, nodes: Iterable[int]) -> None:
        """Have a subscriber that is about to be forked begin where these repairs begin: its predecessor is dead."""
        row = self._heard.row(child.index)
        for node in nodes:
            for wanted in self._open.get(child.number, {}).values():
                row.lower(node, wanted.since_ms.get(node, THE_BEGINNING_MS))

    def forked(self, child: Child) -> None:
        """Send a new subscriber what is wanted: it may have no predecessor."""
        for wanted in self._open.get(child.number, {}).values():
            self._send(child.number, wanted)
