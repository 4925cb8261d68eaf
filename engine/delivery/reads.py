"""Batches of the lanes are read here, and sent; keys whose node can't be asked now wait in their lane until it can be.

They are postponed, which does not count as an attempt, and the rest of their batch continues without them. Keys of one
lane that wait for one node are merged into whole batches again while they wait. A slow node's late answer is used, as
long as its batch still waits unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.clock import monotonic_ms, now_ms
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.work import Batch
from engine.delivery.names import NamesOfDelivered
from engine.delivery.reading.fetch import Fetcher, Hold, Read, ReadLoop
from engine.delivery.reading.job import Job, Wish
from engine.delivery.reading.node_reader import NodeReader
from engine.delivery.reading.questions import Fetched
from engine.delivery.sockets import Sockets
from engine.lifecycle import ChildLink, TopologyChanged
from engine.ring.counters import Counter
from engine.routing.nodes import Topology

AWAY_MS = 5_000
"""How soon keys retry a node that was not reported to be back."""


@dataclass(frozen=True, slots=True)
class Away:
    """A node that can't be asked now: being connected to, resting, or busy."""

    reader: NodeReader

    def found(self) -> Sequence[Fetched]:
        """Return that nothing is read."""
        return ()


class Reads:
    """The reads of one invoker."""

    def __init__(
        self,
        make: Callable[[ReadLoop], Fetcher],
        link: ChildLink,
        sockets: Sockets,
        wake: Callable[[], None],
        wait_ms: Callable[[int], int],
        lanes: Callable[[], Iterable[RouteLane]],
        body_chars_max: int,
        given: Callable[[int, int], None] = lambda _node, _version: None,
        entry_fields: frozenset[str] = frozenset(),
        names: NamesOfDelivered | None = None,
    ) -> None:
        self._link = link
        self._names = names
        self._lanes = lanes
        self._body_chars_max = body_chars_max
        self._entry_fields = entry_fields
        self._newest: dict[tuple[NodeReader, RouteLane], Batch] = {}
        """Batches that may take in more keys that wait for the same node."""
        self._fetcher = make(ReadLoop(sockets, wake, wait_ms, self._failed, self._changed, self._freed, given))
        self.is_open = self._fetcher.is_open
        """Tell whether any node may be asked now."""

    def set_topology(self, topology: Topology) -> None:
        """Read from these nodes from now on."""
        self._fetcher.set_topology(topology)

    def deliver(self, lane: RouteLane, batch: Batch) -> bool:
        """Read a batch, and send what was read; return False if that is nothing."""
        reading, batch.reading = batch.reading, None
        values = reading.found() if reading is not None else ()
        if not values:
            wish = Wish(lane.include_expiry, lane.explained, chars_left=self._body_chars_max, fields=self._entry_fields)
            if wish.explained is not None:
                wish.age_ms = now_ms() - min(batch.moments())
            read = self._fetcher.read([(key, cause.event) for key, cause in batch.entries], wish)
            self._link.row.set(Counter.VERSION, self._fetcher.version)
            values = read.values if read.is_whole() else self._put_off(lane, batch, read)  # type: ignore[assignment]
        if values and self._names is not None and lane.deletes and not self._names.keep(batch.entries, values):
            lane.put_off(batch, monotonic_ms(), AWAY_MS)
            return False
        if values:
            lane.send(batch, values, monotonic_ms(), now_ms())
        return bool(values)

    def _put_off(self, lane: RouteLane, batch: Batch, read: Read) -> list[Fetched]:
        """Let the keys that were not read wait; return the values of those that are left in the batch."""
        entries, moment_ms = batch.entries, monotonic_ms()
        held: set[int] = set()
        for hold in read.holds:
            held.update(hold.indexes)
            self._hold(lane, batch.part([entries[index] for index in hold.indexes]), hold, moment_ms)
        found = [(entry, value) for entry, value in zip(entries, read.values, strict=True) if value is not None]
        # These were not asked for: what was read is enough for a payload.
        rest = [entries[i] for i, value in enumerate(read.values) if value is None and i not in held]
        batch.entries = [entry for entry, _ in found] + rest
        if not found:
            lane.keys.retry(batch, moment_ms)
        return [value for _, value in found]

    def _hold(self, lane: RouteLane, part: Batch, hold: Hold, moment_ms: int) -> None:
        reader = hold.reader
        if reader is None:
            lane.put_off(part, moment_ms, hold.wait_ms)
            return
        if hold.job is None:
            newest = self._newest.get((reader, lane))
            if newest is not None and lane.keys.retries.join(part, newest, lane.keys.batch_size):
                return
            self._newest[reader, lane] = part
        part.reading = hold.job or Away(reader)
        lane.put_off(part, moment_ms, AWAY_MS)

    def _freed(self, reader: NodeReader) -> None:
        """Make due what waits for a node that may be asked, or that was removed."""
        for key in [key for key in self._newest if key[0] is reader]:
            del self._newest[key]

        def waits(batch: Batch) -> bool:
            return isinstance(batch.reading, Away | Job) and batch.reading.reader is reader

        for lane in self._lanes():
            lane.keys.retries.expedite(waits, monotonic_ms())

    def node_of(self, key: bytes, event: str) -> str:
        """Return the address of the node that a key is read from, "" if nobody has it."""
        groups, _ = self._fetcher.readers.group([(key, event)])
        return groups[0][0].node.place if groups else ""

    def _failed(self) -> None:
        self._link.row.add(Counter.FETCH_ERRORS, 1)

    def _changed(self, reason: str) -> None:
        self._link.report(TopologyChanged(reason))
