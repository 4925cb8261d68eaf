"""Counters and life signs that outlive the process that writes them.

A board is one anonymous shared mapping made before the fork: a row per child, a word per counter. Every row has one
writer at a time (the child that holds it), and words are 64-bit stores through a cast view, so a reader never
sees half a value. A child's successor takes over the row and continues counting.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from enum import IntEnum

from engine.ring.lags import LAG_WORDS, LagRow
from engine.ring.protection import make_read_only

_WORD_BYTES = 8
_PID, _STATE, _HEARTBEAT = range(3)
_COUNTERS_AT = 3
_SIZES_AT = 80
_GAPS_AT = 96
_LAGS_AT = 112
_ROW_WORDS = _LAGS_AT + LAG_WORDS
BATCH_SIZE_BUCKETS = 16
"""Bucket *n* counts batches of 2**(n−1) to 2**n − 1 records; the last one all that are larger."""


class ChildState(IntEnum):
    """How far a child's life has come."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3
    DRAINED = 4
    FAILED = 5


class Counter(IntEnum):
    """What is counted, a word each; a subscriber's first, then an invoker's. ``*`` marks a gauge."""

    EVENTS_READ = 0
    EVENTS_ROUTED = 1
    EVENTS_COALESCED = 2
    CHANGES_WRITTEN = 3
    FRAMES_WRITTEN = 4
    RING_FULL = 5
    DIRTY_KEYS = 6  # *
    GAPS = 7
    EVENTS_DROPPED = 8
    KEYS_TOO_LONG = 9
    RECONNECTS = 10
    CHANGES_READ = 11
    CHANGES_COALESCED = 12
    KEYS_FETCHED = 13
    KEYS_GONE = 14
    KEYS_RETYPED = 15
    RECORDS_DELIVERED = 16
    INVOCATIONS = 17
    INVOCATIONS_FAILED = 18
    INVOCATIONS_THROTTLED = 19
    RECORDS_RETRIED = 20
    DEAD_LETTERS = 21
    PAYLOAD_BYTES = 22
    KEYS_WAITING = 23  # *
    KEYS_IN_FLIGHT = 24  # *
    FETCH_ERRORS = 25
    LAG_MS_SUM = 26
    LAG_MS_MAX = 27
    REPAIRS = 28
    KEYS_REPAIRED = 29
    KEYS_SCANNED = 30  # * by the repair under way
    KEYS_TO_SCAN = 31  # *
    VERSION = 32  # * the newest that was given out
    FENCE_MS = 33  # * until when an invocation may still write (monotonic ms), 0 while none is in flight
    KEYS_BACKLOG = 34  # *
    INVOCATIONS_LOST = 35
    BACKLOG_REFUSED = 36
    COMPARISONS = 37
    KEYS_SET_ASIDE = 38  # * in the backlog because they keep failing by themselves
    SKIPPED_UNCHANGED = 39
    KEYS_LOOKED_AT = 40  # by repairs
    INVOCATIONS_ACCEPTED = 41  # whole
    FEEDS = 42  # *
    FEEDS_PROVED = 43  # * of them listening, and known to be sent all events that the routes need
    ENTRIES_ACKNOWLEDGED = 44  # of streams, as those below
    ENTRIES_MALFORMED = 45
    ENTRIES_MISSED = 46  # deleted or trimmed before anybody had read them
    ENTRIES_UNSETTLED = 47  # * read, and not acknowledged
    ENTRIES_BEHIND = 48  # * not read yet
    SPANS_DROPPED = 49  # of traces, by an invoker


GAUGES = frozenset(
    {
        Counter.DIRTY_KEYS,
        Counter.KEYS_WAITING,
        Counter.KEYS_IN_FLIGHT,
        Counter.LAG_MS_MAX,
        Counter.KEYS_SCANNED,
        Counter.KEYS_TO_SCAN,
        Counter.VERSION,
        Counter.FENCE_MS,
        Counter.KEYS_BACKLOG,
        Counter.KEYS_SET_ASIDE,
        Counter.FEEDS,
        Counter.FEEDS_PROVED,
        Counter.ENTRIES_UNSETTLED,
        Counter.ENTRIES_BEHIND,
    }
)
"""Words that are not counts of events: a difference of two of these says nothing."""


_HIGHEST = frozenset({Counter.LAG_MS_MAX, Counter.VERSION, Counter.FENCE_MS})
"""Counters whose total is the highest, not the sum."""


class GapReason(IntEnum):
    """Why changes may have gone unheard."""

    NOT_STARTED = 0
    """No subscriber listened: the engine or a subscriber did not run, or a node had no feed yet."""
    DISCONNECTED = 1
    DIRTY_SET_FULL = 2
    EVENTS_OFF = 3
    """The server did not send all events that the routes need, or may not have."""
    DATASET = 4
    """The server holds another dataset than before, or may: flushed, loaded, resynchronized."""
    MOVED = 5
    """The node is read from another server."""
    ENTRIES_REMOVED = 6
    """Entries of a stream were removed before anybody had read them, or a group, or a stream."""


assert _COUNTERS_AT + len(Counter) <= _SIZES_AT
assert _SIZES_AT + BATCH_SIZE_BUCKETS <= _GAPS_AT
assert _GAPS_AT + len(GapReason) <= _LAGS_AT


class StatusRow:
    """One child's words on the board."""

    __slots__ = ("_words", "lags")

    def __init__(self, words: memoryview) -> None:
        assert len(words) == _ROW_WORDS
        self._words = words
        self.lags = LagRow(words[_LAGS_AT:])

    @property
    def pid(self) -> int:
        """Return the process that holds this row, 0 for none."""
        return int(self._words[_PID])

    def set_pid(self, pid: int) -> None:
        """Note which process holds this row."""
        self._words[_PID] = pid

    @property
    def state(self) -> ChildState:
        """Return how far the child has come."""
        return ChildState(self._words[_STATE])

    def set_state(self, state: ChildState) -> None:
        """Note how far the child has come."""
        self._words[_STATE] = state

    @property
    def heartbeat_ms(self) -> int:
        """Return when the child's loop last turned (monotonic milliseconds)."""
        return int(self._words[_HEARTBEAT])

    def beat(self, now_ms: int) -> None:
        """Note that the loop turns (monotonic milliseconds)."""
        self._words[_HEARTBEAT] = now_ms

    def add(self, counter: Counter, amount: int) -> None:
        """Add to a counter; only the row's one writer may."""
        self._words[_COUNTERS_AT + counter] += amount

    def set(self, counter: Counter, value: int) -> None:
        """Set a gauge; only the row's one writer may."""
        self._words[_COUNTERS_AT + counter] = value

    def get(self, counter: Counter) -> int:
        """Return a counter's value."""
        return int(self._words[_COUNTERS_AT + counter])

    def record_batch_size(self, size: int) -> None:
        """Count a batch in the bucket of its size."""
        self._words[_SIZES_AT + min(size.bit_length(), BATCH_SIZE_BUCKETS - 1)] += 1

    def batch_sizes(self) -> list[int]:
        """Return how many batches fell into each bucket of `BATCH_SIZE_BUCKETS`."""
        return [int(count) for count in self._words[_SIZES_AT : _SIZES_AT + BATCH_SIZE_BUCKETS]]

    def count_gap(self, reason: GapReason) -> None:
        """Count a gap, in total and by its reason."""
        self._words[_COUNTERS_AT + Counter.GAPS] += 1
        self._words[_GAPS_AT + reason] += 1

    def gaps(self) -> dict[str, int]:
        """Return how many gaps there were of each reason, by name in lower case."""
        return {reason.name.lower(): int(self._words[_GAPS_AT + reason]) for reason in GapReason}

    def snapshot(self) -> dict[str, int]:
        """Return all counters by name, in lower case."""
        return {counter.name.lower(): self.get(counter) for counter in Counter}


class Board:
    """The rows of all children; made before the fork, gone with the last process."""

    def __init__(self, rows: int) -> None:
        assert rows > 0
        self._memory = mmap.mmap(-1, rows * _ROW_WORDS * _WORD_BYTES)
        words = memoryview(self._memory).cast("Q")
        self.rows = tuple(StatusRow(words[index * _ROW_WORDS : (index + 1) * _ROW_WORDS]) for index in range(rows))

    def row(self, index: int) -> StatusRow:
        """Return the row of this child."""
        return self.rows[index]

    def make_read_only(self) -> None:
        """Make this process read-only from now on."""
        make_read_only(self._memory)


def totals(rows: Sequence[StatusRow]) -> dict[str, int]:
    """Return all counters over all children, by name in lower case."""
    return {
        counter.name.lower(): (max if counter in _HIGHEST else sum)(row.get(counter) for row in rows)
        for counter in Counter
    }
