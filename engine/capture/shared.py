"""What all feeds of one subscriber share: its dirty keys, what routes want of them, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from engine.capture.dirty import DirtyKeys, Intake, interests
from engine.capture.notices import Notices
from engine.capture.notifications import needed_flags
from engine.clock import now_ms
from engine.config import CaptureSettings, RedisSettings
from engine.lifecycle import Message
from engine.model import FORCED, RouteMask, StreamKept
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow
from engine.routing.events import ENTRY, NAMED, REPAIR_GONE
from engine.routing.routes import RouteTable

log = get_logger(__name__)

TOO_LONG_LOG_MS = 10_000


@dataclass(frozen=True, slots=True)
class CaptureScope:
    """Which keys are captured, and how; ``database`` is theirs, or, of several, that of the engine's own keys."""

    shard: int
    redis: RedisSettings
    capture: CaptureSettings
    database: int
    mapping_prefix: str
    names_folder: str = ""
    """Where a source may keep the names of keys."""


def forced(mask: RouteMask) -> RouteMask:
    """Return these routes, to be sent even what they may have accepted already."""
    return mask | FORCED if mask else mask


class Shared:
    """One subscriber's: every feed reads into the same dirty set, for the same routes."""

    def __init__(
        self,
        scope: CaptureScope,
        table: RouteTable,
        dirty: DirtyKeys,
        row: StatusRow,
        report: Callable[[Message], None],
    ) -> None:
        self.scope = scope
        self.dirty = dirty
        self.row = row
        self.report = report
        self.notices = Notices(report)
        self.overflown: list[Callable[[], None]] = []
        """The feeds to notify once the dirty set has room again."""
        self.wishes = count(1)
        """Numbers of comparisons: each request takes the next, and a finished one covers all before it."""
        self.streams: Mapping[str, StreamKept] = {}
        """What is kept of each stream, as of the newest feeds."""
        self.settled_mark: Callable[[int], int] = lambda _node: 0
        """Return the mark of the newest watermark of a node that all rings have settled."""
        self._streams_shown: dict[int, tuple[int, int]] = {}
        self._too_long_said_ms = -TOO_LONG_LOG_MS
        self.set_routes(table)

    def set_routes(self, table: RouteTable) -> None:
        """Want what these routes want from now on."""
        self.table = table
        self.flags = needed_flags(table, self.scope.mapping_prefix)
        self.dirty.uncoalesced = table.uncoalesced()
        self._wanted = interests(table)
        repairs = table.for_repairs()
        self._for_repairs, self._for_deletes = repairs.mask, table.for_deletes().mask
        if self.scope.capture.source == "stream":
            mask_of = repairs.mask if repairs.some else None
            self._wanted |= {event.encode(): (repairs.always, mask_of, event) for event in (NAMED, ENTRY)}

    def take_in(self, next_reply: Callable[[], Any], moment_ms: int) -> Intake:
        """Take in what one read of a feed brought, and count it; raise `hiredis.ProtocolError`."""
        intake = self.dirty.take_in(next_reply, self._wanted, now_ms())
        row = self.row
        row.add(Counter.EVENTS_READ, intake.read)
        row.add(Counter.EVENTS_ROUTED, intake.routed)
        row.add(Counter.EVENTS_COALESCED, intake.coalesced)
        row.add(Counter.EVENTS_DROPPED, intake.dropped)
        if intake.too_long:
            self._say_too_long(intake.too_long, moment_ms)
        if intake.mappings:
            self.notices.mappings_changed(moment_ms)
        return intake

    def _say_too_long(self, events: int, moment_ms: int) -> None:
        self.row.add(Counter.KEYS_TOO_LONG, events)
        if moment_ms - self._too_long_said_ms >= TOO_LONG_LOG_MS:
            self._too_long_said_ms = moment_ms
            log.error("key_too_long", limit_bytes=self.scope.capture.key_bytes_max, events=events)

    def mark_dirty(self, key: bytes, event: str) -> bool:
        """Take in a key that an audit, a redrive or a comparison wants to be sent again; False if there is no room."""
        mask_of = self._for_deletes if event == REPAIR_GONE else self._for_repairs
        _, left = self.dirty.mark([key], lambda one: forced(mask_of(one)), event, now_ms())
        if left:
            self.row.add(Counter.EVENTS_DROPPED, 1)
        return not left

    def show_streams(self, node: int, behind: int, unsettled: int) -> None:
        """Show how many entries of a node's streams are unread, and how many are unacknowledged."""
        self._streams_shown[node] = behind, unsettled
        shown = self._streams_shown.values()
        self.row.set(Counter.ENTRIES_BEHIND, sum(one[0] for one in shown))
        self.row.set(Counter.ENTRIES_UNSETTLED, sum(one[1] for one in shown))

    def look_for_room(self) -> bool:
        """Notify those that lacked room once the dirty set has more than live changes need; return whether it has."""
        if not self.overflown or len(self.dirty) > self.scope.capture.dirty_keys_max // 2:
            return False
        overflown, self.overflown = self.overflown, []
        for there_is_room in overflown:
            there_is_room()
        return True
