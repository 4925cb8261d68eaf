"""Versions: the order of a key's values, from the clock of the node that holds it.  (pure)

A version is the node's ``TIME`` in microseconds, plus `EPOCH_US` for each configuration epoch of the node. Whoever
takes over a slot of a cluster has a higher epoch than all owners before it, so a key's versions never go back when its
slot moves, or its node fails over, as long as the nodes' clocks differ by less than `EPOCH_US`. And every engine that
asks the same node reckons the same, whatever it has seen before. Without epochs there is the clock alone.

Two things go past that. A node's clock that stands still, or is set back, is carried on: versions go on from the
highest one as fast as time does, so two engines that see the same jump keep their order. And a slot's new owner whose
version would be below what was given out for the slot before (the clocks differ by more) goes ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.routing.nodes import SLOTS

EPOCH_US = 10_000_000
"""What an epoch adds: by as much the clocks of a cluster's nodes may differ."""


class Versions:
    """Those of one node: each one is higher than the one before."""

    def __init__(self, floor: int = 0) -> None:
        self.newest = floor
        """The highest that was given out."""
        self._ahead = 0
        """By how much versions are ahead of what the node tells."""
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
    """The highest version of each slot of a cluster, whichever node it came from."""

    def __init__(self) -> None:
        self._newest = [0] * SLOTS

    def highest(self, slots: Iterable[int]) -> int:
        """Return the highest version that was given out for any of these slots, 0 for none."""
        return max(map(self._newest.__getitem__, slots), default=0)

    def given(self, slots: Sequence[int], version: int) -> None:
        """Take in that this version was given out for these slots."""
        newest = self._newest
        for slot in slots:
            if newest[slot] < version:
                newest[slot] = version
