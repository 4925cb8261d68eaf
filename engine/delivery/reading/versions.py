"""Versions: the order of a key's values, from the clock of the node that holds it.  (pure)

A version is the node's ``TIME`` in microseconds, plus `EPOCH_US` for each configuration epoch of the node. Whoever
takes over a slot of a cluster has a higher epoch than all owners before it, so a key's versions never go back when its
slot moves, or its node fails over, as long as the nodes' clocks differ by less than `EPOCH_US`. And every engine that
asks the same node computes the same, whatever it has seen before. Without epochs there is the clock alone.

There are two exceptions. If a node's clock stands still, or is set back, versions continue from the highest one at the
speed of time, so two engines that see the same jump keep their order. And a slot's new owner whose version would be
below what was given out for the slot before (the clocks differ by more) goes ahead of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.routing.nodes import SLOTS

EPOCH_US = 10_000_000
"""What an epoch adds: the clocks of a cluster's nodes may differ by this much."""


class Versions:
    """Those of one node: each one is higher than the one before."""

    def __init__(self, floor: int = 0) -> None:
        self.newest = floor
        """The highest that was given out."""
        self._ahead = 0
        """By how much versions are ahead of what the node reports."""
        self.lag_us = 0
        """How far a node was behind what was given out for its keys by another."""

    def next(self, time_us: int, epoch: int, floor: int = 0) -> int:
        """Return the version of what is read after this moment of the node's clock.

        It is above ``floor`` too: what another node gave out for the same keys.
        """
        told = time_us + epoch * EPOCH_US
        if floor > self.newest:
            self.lag_us = max(self.lag_us, floor + 1 - told)
            self.newest = floor
        self._ahead = max(self._ahead, self.newest + 1 - told)
        self.newest = told + self._ahead
        return self.newest


class SlotVersions:
    """What versions of a cluster's slots have to exceed, whichever nodes they came from.

    Whoever takes a slot over has a higher epoch than its former owner, except a node that has not heard of that one's
    newest. Versions of such a slot count an epoch that is higher all the same (``least``), until its owner's is.
    """

    def __init__(self) -> None:
        self._newest = [0] * SLOTS
        """The highest version that was given out."""
        self._by: list[str | None] = [None] * SLOTS
        """The id of the node that it came from."""
        self._counted = [0] * SLOTS
        """The epoch that it counts."""
        self._least: dict[int, int] = {}

    def least(self, slots: Sequence[int], node_id: str) -> Sequence[int]:
        """Return the least epoch that this node's versions of each slot count; nothing if its own suffices."""
        by, least = self._by, self._least
        givers = set(map(by.__getitem__, slots))
        givers.discard(None)
        givers.discard(node_id)
        if not givers and (not least or least.keys().isdisjoint(slots)):
            return ()
        return [
            max(least.get(slot, 0), self._counted[slot] + 1 if by[slot] in givers else 0)  # it has changed hands
            for slot in slots
        ]

    def floor(self, slots: Sequence[int], least: Sequence[int], epoch: int) -> int:
        """Return what versions of a node with this epoch have to exceed, given what these slots had before."""
        if not least:
            return max(map(self._newest.__getitem__, slots), default=0)
        return max(self._newest[slot] - raised_us(epoch, one) for slot, one in zip(slots, least, strict=True))

    def given(self, slot: int, node_id: str, version: int, epoch: int, least: int = 0) -> None:
        """Take in that a node with this epoch gave out this version for a slot, higher where that counts more."""
        if least > epoch:
            version += raised_us(epoch, least)
            self._least[slot] = epoch = least
        elif least:
            self._least.pop(slot, None)
        if self._newest[slot] < version:
            self._newest[slot] = version
        self._by[slot] = node_id
        self._counted[slot] = epoch


def raised_us(epoch: int, least: int) -> int:
    """Return by how much a version is higher that counts at least this epoch, where its node has another one."""
    return (least - epoch) * EPOCH_US if least > epoch else 0
