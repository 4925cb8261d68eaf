"""What becomes of entries, and of groups that are missing: one desk for all streams of a feed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.capture.shared import Shared
from engine.capture.sources.stream.entries import Shape, parsed
from engine.capture.sources.stream.followed import OWED, THE_START, Followed
from engine.capture.sources.stream.histories import Histories
from engine.capture.sources.stream.ledger import Ledger
from engine.capture.sources.stream.standing import Standing
from engine.model import THE_BEGINNING_MS, Missed
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, GapReason
from engine.routing.nodes import as_ranges, slot_of

log = get_logger(__name__)

SAY_MS = 10_000
"""How often malformed entries, and deleted ones, are reported; all are counted."""
SHOWN_MAX = 3


class Desk:
    """Entries go from here into the dirty set and the ledger. ``who`` names the feed in log lines."""

    def __init__(self, shared: Shared, consumer: str, who: Mapping[str, object], histories: Histories) -> None:
        scope = shared.scope
        self.capture = scope.capture
        self.consumer = consumer
        self.histories = histories
        self.shape = Shape(scope.capture, scope.database)
        # The clock's microseconds: no predecessor can have used up that many marks.
        self.ledger = Ledger(time.monotonic_ns() // 1_000)
        self.moment_ms = 0
        """The turn's."""
        self.has_gap = False
        """Whether entries that named keys were removed unread: all keys may have changed."""
        self._shared, self._row, self._who = shared, shared.row, who
        self._said_ms: dict[str, int] = {}

    # Entries

    def taken(self, stream: Followed, entries: Sequence[Any]) -> None:
        """Take in new entries."""
        stream.account.received += len(entries)
        self._take(stream, entries, ())

    def pending(self, stream: Followed, entries: Sequence[Any]) -> None:
        """Take in entries of our own that were delivered before, and never acknowledged."""
        count = self._take(stream, entries, stream.known)
        if stream.is_counting:
            stream.account.received += count
            stream.found += count

    def pending_read(self, stream: Followed) -> None:
        """Note that there are no more of those."""
        if stream.found and stream.is_rechecked:
            hint = "engines need a capture.slice or a capture.consumer_group of their own"
            log.error("consumer_shared", **self._of(stream), consumer=self.consumer, entries=stream.found, hint=hint)

    def claimed(self, stream: Followed, entries: Sequence[Any]) -> None:
        """Take in entries that another consumer has left."""
        count = self._take(stream, entries, self.ledger.known(stream.name))
        if count:
            log.info("entries_claimed", **self._of(stream), entries=count)

    def _take(self, stream: Followed, entries: Sequence[Any], known: Collection[bytes]) -> int:
        shared = self._shared
        taken = self.shape.take(stream.name, entries, known)
        intake = shared.take_in(taken.next_reply(), self.moment_ms)
        has_room = not intake.dropped
        for key, event in intake.marks:
            has_room = shared.mark_dirty(key, event.decode()) and has_room
        if not has_room:
            # Nothing is acknowledged, so all of it is read again.
            self.forget(stream)
            stream.read_pending((), is_counting=False)
            return len(taken.ids)
        self.ledger.take(stream.name, taken.ids)
        if taken.malformed:
            self._row.add(Counter.ENTRIES_MALFORMED, len(taken.malformed))
            hint = f"each entry names a key in its field {self.capture.key_field}: capture.key_field"
            self._say("entry_malformed", stream, taken.malformed, hint)
        if taken.gone:
            self._row.add(Counter.ENTRIES_MISSED, len(taken.gone))
            self.has_gap = True
            self._say("entry_gone", stream, taken.gone, "entries are deleted before they are acknowledged")
        return len(taken.ids)

    def forget(self, stream: Followed) -> None:
        """Acknowledge nothing of this stream that was taken in until now."""
        self.ledger.forget([stream.name])
        stream.acks = []

    def acknowledged(self, stream: Followed, count: int) -> None:
        """Note that the server has acknowledged this many."""
        self.ledger.acknowledged(stream.name, count)
        self._row.add(Counter.ENTRIES_ACKNOWLEDGED, count)

    # Groups

    def looked(self, stream: Followed, standing: Standing) -> None:
        """Take in how a group stands, after everything that was received."""
        stream.standing, stream.settled = standing, standing.settled
        if self.capture.after_ack == "trim":
            stream.trim_to = standing.settled
        is_counted = standing.read is None or standing.read == standing.added
        stream.is_miscounted = standing.is_at_end and not is_counted and stream.may_mend
        missing = stream.account.look(standing)
        if stream.cursor is not None:
            return
        if missing and not stream.is_rechecked:
            # Delivered to us, and never received? Then they are pending.
            stream.is_rechecked = True
            stream.read_pending(self.ledger.known(stream.name), is_counting=True)
            return
        stream.is_rechecked = False
        if missing:
            self._tell_missing(stream, standing, missing)
            stream.account.close(missing)

    def _tell_missing(self, stream: Followed, standing: Standing, missing: int) -> None:
        if not stream.account.is_removed:
            others = [name.decode("utf-8", "replace") for name in standing.others[:SHOWN_MAX]]
            hint = "a consumer group belongs to one engine: choose another capture.consumer_group"
            log.error("entries_read_by_others", **self._of(stream), entries=missing, consumers=others, hint=hint)
            return
        self._row.count_gap(GapReason.ENTRIES_REMOVED)
        self._row.add(Counter.ENTRIES_MISSED, missing)
        self.has_gap = True
        hint = "let writers keep more entries (MAXLEN, MINID)"
        log.error("entries_removed_unread", **self._of(stream), entries=missing, hint=hint)

    def take_lost(self, *, in_slots: bool) -> Missed | None:
        """Return what a scan has to find: all keys that lost entries may have named; None if none were lost.

        If a server may have lost what was read, in a cluster those keys are in the streams' own slots (``in_slots``):
        whoever writes both in one step has to put them there.
        """
        has_gap, self.has_gap = self.has_gap, False
        if has_gap and not self.shape.carries:
            # If we die before it is settled, a successor has to know.
            self.histories.owe()
            self.histories.take_wanted()
            return Missed(THE_BEGINNING_MS)
        wanted = self.histories.take_wanted()
        if not wanted:
            return None
        if self.shape.carries:
            # An entry is a record of its own, whatever became of it.
            self.histories.forgive()
            return None
        is_moved = all(stream.history == OWED for stream in wanted)
        self._row.count_gap(GapReason.MOVED if is_moved else GapReason.DATASET)
        meaning = "writes may have been lost; the keys that entries may name are scanned"
        log.info("history_changed", **self._who, streams=[stream.text for stream in wanted], meaning=meaning)
        slots = as_ranges({slot_of(stream.name) for stream in wanted}) if in_slots else ()
        return Missed(THE_BEGINNING_MS, slots=slots)

    def place_of_group(self, stream: Followed, last: bytes | None) -> bytes:
        """Return where a missing group has to begin; ``last`` is the stream's newest id, None for no stream.

        What was acknowledged is not read again, unless it is a different stream.
        """
        self.forget(stream)
        stream.read_pending((), is_counting=False)
        if not stream.settled:
            routes = self._shared.table.routes.values()
            # A stream that was read elsewhere had a group: entries have been written since.
            is_whole = stream.history == OWED or any(one.starting_position == "TRIM_HORIZON" for one in routes)
            log.info("group_made", **self._of(stream), at="the beginning" if is_whole else "the end")
            return THE_START if is_whole else b"$"
        self._row.count_gap(GapReason.ENTRIES_REMOVED)
        if last is not None and parsed(last) >= parsed(stream.settled):
            log.error("group_deleted", **self._of(stream), made_anew_from=stream.settled.decode())
            return stream.settled
        # Whatever was not read of the former stream no longer exists.
        stream.settled = b""
        self.has_gap = True
        log.error("stream_deleted", **self._of(stream), hint="its group is created again, at the beginning")
        return THE_START

    # Words

    def _of(self, stream: Followed) -> dict[str, object]:
        return {**self._who, "stream": stream.text}

    def _say(self, what: str, stream: Followed, ids: Sequence[bytes], hint: str) -> None:
        if self.moment_ms - self._said_ms.get(what, -SAY_MS) >= SAY_MS:
            self._said_ms[what] = self.moment_ms
            shown = [entry_id.decode() for entry_id in ids[:SHOWN_MAX]]
            log.error(what, **self._of(stream), entries=len(ids), such_as=shown, hint=hint)
