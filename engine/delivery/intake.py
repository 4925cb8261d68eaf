"""The invoker's end of its rings: frames in, positions and watermarks out; what was damaged is not believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.delivery.lanes.settle import Frame, Ledger
from engine.model import Change, Watermark
from engine.observe.logs import get_logger
from engine.ring.codec import decode_changes, watermarks_of
from engine.ring.ring import RingCorrupted, RingReader

log = get_logger(__name__)

FRAMES_A_TURN_MAX = 64
MARKS_OF_A_REPAIR = 3
"""Watermarks that are settled before a repair is believed: the first may have been on their way when it was wanted."""

Distribute = Callable[[list[Change], Frame, bool], None]
"""Takes the changes of a frame; the last tells whether somebody before us has read it too."""
Report = Callable[[int, dict[int, int]], None]
"""Has looked for what changed in this shard, since when by node number (Unix ms of the node; since ever by default)."""


class Distrust:
    """How many watermarks, by ring, still say nothing, because what was lost is being looked for.  (pure)"""

    def __init__(self, rings: int) -> None:
        self._of_ring = [0] * rings
        self._of_all: list[int] = []

    def damaged(self, index: int) -> None:
        """Take in that a part of this ring was lost."""
        self._of_ring[index] = MARKS_OF_A_REPAIR

    def await_all(self) -> None:
        """Take in that something was lost that no ring knows; `believes` tells when it is found."""
        self._of_all = [MARKS_OF_A_REPAIR] * len(self._of_ring)

    def believes(self, index: int) -> tuple[bool, bool]:
        """Take in that a watermark of this ring is settled; return whether it counts, and whether all is found now."""
        is_believed = not self._of_ring[index]
        if not is_believed:
            self._of_ring[index] -= 1
        is_found = False
        if self._of_all:
            self._of_all[index] -= 1
            is_found = max(self._of_all) <= 0
            if is_found:
                self._of_all = []
        return is_believed, is_found


class Intake:
    """All rings of an invoker, and a ledger for each."""

    def __init__(self, readers: Sequence[RingReader], report: Report) -> None:
        self._rings = [(reader, Ledger()) for reader in readers]
        self._seen_until = [reader.seen_until for reader in readers]
        self._report = report
        self.distrust = Distrust(len(readers))

    def read(self, distribute: Distribute) -> bool:
        """Hand out what is there, up to a bound; return True if there is more."""
        more = False
        for index, (reader, ledger) in enumerate(self._rings):
            for _ in range(FRAMES_A_TURN_MAX):
                try:
                    read = reader.read()
                    if read is None:
                        break
                    changes, end = decode_changes(read[0]), read[1]
                    watermark = next(iter(watermarks_of(changes)), None)
                except RingCorrupted as error:
                    self._skip(index, error)
                    break
                frame = ledger.add(end, watermark)
                if watermark is None:
                    distribute(changes, frame, end <= self._seen_until[index])
            else:
                more = True
        return more

    def _skip(self, index: int, error: RingCorrupted) -> None:
        """Pass over a damaged part of a ring: it is a gap of its shard, since this ring's last watermarks."""
        reader, ledger = self._rings[index]
        since_ms = {0: reader.watermark.moment_ms} if reader.watermark.moment_ms else {}
        ledger.add(reader.skip())
        self.distrust.damaged(index)
        self._report(index, since_ms)
        log.error("ring_damaged", error=str(error), since_ms=since_ms)

    def release(self) -> bool:
        """Give back what is settled; return True where all that was lost is found now."""
        is_found = False
        for index, (reader, ledger) in enumerate(self._rings):
            before = ledger.watermark
            end = ledger.settled()
            if end is not None:
                reader.release(end)
                if ledger.watermark is not None and ledger.watermark is not before:
                    is_found |= self._note(index, ledger.watermark)
        return is_found

    def _note(self, index: int, watermark: Watermark) -> bool:
        """Believe a watermark once what was lost is found: while it is scanned for, none comes."""
        is_believed, is_found = self.distrust.believes(index)
        if is_believed:
            self._rings[index][0].set_watermark(watermark)
        return is_found

    def share_used(self) -> float:
        """Return how full the fullest ring is."""
        return max(reader.used / reader.ring_bytes for reader, _ in self._rings)
