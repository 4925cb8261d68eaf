"""The invoker's end of its rings: frames in, positions and watermarks out; damaged data is not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from engine.delivery.lanes.settle import Frame, Ledger
from engine.model import Run, Watermark
from engine.observe.logs import get_logger
from engine.ring.codec import decode_runs, watermarks_of
from engine.ring.ring import RingCorrupted, RingReader

log = get_logger(__name__)

FRAMES_A_TURN_MAX = 64
MARKS_OF_A_REPAIR = 3
"""How many watermarks settle before a repair is believed: the first may have been under way when it was requested."""

Distribute = Callable[[list[Run], Frame, bool], None]
"""Takes the runs of a frame; the last argument says whether a predecessor has read it too."""
Report = Callable[[int, dict[int, int]], None]
"""Requests a search for what changed in this shard, since a moment for each node number (Unix ms; default: ever)."""


class Distrust:
    """Which watermarks, by ring and node, are not believed yet, because what was lost is being looked for.  (pure)"""

    def __init__(self, nodes: Sequence[Collection[int]]) -> None:
        """Begin with all believed; ``nodes`` are those that each ring's shard has a feed on."""
        self.nodes = nodes
        self._since_damage: list[Counter[int] | None] = [None] * len(nodes)
        self._awaited: list[Counter[int]] = []

    def damaged(self, index: int) -> None:
        """Note that a part of this ring was lost."""
        self._since_damage[index] = Counter()

    def await_all(self) -> None:
        """Note that something outside the rings was lost; `believes` says when it is found."""
        self._awaited = [Counter() for _ in self.nodes]

    def believes(self, index: int, node: int) -> tuple[bool, bool]:
        """Note that a watermark of this ring is settled; return whether it counts, and whether all is found now."""
        since_damage = self._since_damage[index]
        is_believed = since_damage is None or since_damage[node] >= MARKS_OF_A_REPAIR
        if since_damage is not None:
            since_damage[node] += 1
        is_found = False
        if self._awaited:
            self._awaited[index][node] += 1
            pairs = ((ring, one) for ring, nodes in enumerate(self.nodes) for one in nodes)
            is_found = all(self._awaited[ring][one] >= MARKS_OF_A_REPAIR for ring, one in pairs)
            if is_found:
                self._awaited = []
        return is_believed, is_found


class Intake:
    """All rings of an invoker, and a ledger for each."""

    def __init__(self, readers: Sequence[RingReader], nodes: Sequence[Collection[int]], report: Report) -> None:
        """Read these rings; ``nodes`` are those that each one's shard has a feed on."""
        self._rings = [(reader, Ledger()) for reader in readers]
        self._seen_until = [reader.seen_until for reader in readers]
        self._report = report
        self.distrust = Distrust(nodes)

    def read(self, distribute: Distribute) -> bool:
        """Hand out what has arrived, up to a bound; return True if there is more."""
        more = False
        for index, (reader, ledger) in enumerate(self._rings):
            for _ in range(FRAMES_A_TURN_MAX):
                try:
                    read = reader.read()
                    if read is None:
                        break
                    runs, end = decode_runs(read[0]), read[1]
                    watermarks = watermarks_of(runs)
                except RingCorrupted as error:
                    self._skip(index, error)
                    break
                frame = ledger.add(end, watermarks)
                if not watermarks:
                    distribute(runs, frame, end <= self._seen_until[index])
            else:
                more = True
        return more

    def _skip(self, index: int, error: RingCorrupted) -> None:
        """Skip a damaged part of a ring: it is a gap of its shard, since this ring's last watermarks."""
        reader, ledger = self._rings[index]
        since_ms = reader.watermarks()
        ledger.add(reader.skip())
        self.distrust.damaged(index)
        self._report(index, since_ms)
        log.error("ring_damaged", error=str(error), since_ms=since_ms)

    def release(self) -> bool:
        """Release what is settled; return True if all that was lost is found now."""
        is_found = False
        for index, (reader, ledger) in enumerate(self._rings):
            end = ledger.settled()
            if end is not None:
                reader.release(end)
                for watermark in ledger.take_watermarks():
                    is_found |= self._note(index, watermark)
        return is_found

    def _note(self, index: int, watermark: Watermark) -> bool:
        """Believe a watermark once what was lost is found: none is sent during its scan."""
        is_believed, is_found = self.distrust.believes(index, watermark.node)
        if is_believed:
            self._rings[index][0].set_watermark(watermark)
        return is_found

    def set_nodes(self, nodes: Sequence[Collection[int]]) -> None:
        """Take in which nodes each ring's shard has a feed on now."""
        self.distrust.nodes = nodes

    def share_used(self) -> float:
        """Return how full the fullest ring is."""
        return max(reader.used / reader.ring_bytes for reader, _ in self._rings)
