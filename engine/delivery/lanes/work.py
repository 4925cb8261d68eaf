"""What a lane holds: dirty keys, batches of them, and those batches that wait for their next attempt.  (pure)"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from engine.delivery.lanes.settle import DURABLE, Frame
from engine.delivery.reading.values import key_text
from engine.model import Events, Outcome, Run
from engine.observe.logs import FUNCTIONS_WORDS
from engine.routing.events import SAME_NAME

if TYPE_CHECKING:
    from engine.delivery.reading.questions import Fetched
    from engine.delivery.unchanged import Claims


class Cause(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Why a key is dirty: its newest event, and when the oldest one that it stands for was captured (Unix ms).

    ``frame`` is the oldest one of its ring that still needs the key; ``events`` are all that it stands for, if they
    were kept apart. Keys of one run share a cause; one that changes again, or fares differently, gets another.
    """

    event: str
    captured_ms: int
    frame: Frame
    events: Events = ()

    @classmethod
    def of(cls, run: Run, frame: Frame) -> Cause:
        """Return what the keys of a run share in a lane, one name between all that wait for the same event."""
        return cls(SAME_NAME.get(run.event, run.event), run.captured_ms, frame, run.events)

    def each(self) -> Events:
        """Return all events that are known, with their times; the newest one's name if none were kept apart."""
        return self.events or ((self.event, self.captured_ms),)

    def holding(self, frame: Frame) -> Cause:
        """Return the same for a key that holds another frame."""
        return Cause(self.event, self.captured_ms, frame, self.events)

    def followed(self, event: str, events: Events) -> Cause:
        """Return what it is after a newer event; ``events`` are all that it then stands for."""
        return Cause(event, self.captured_ms, self.frame, events)


Entry = tuple[bytes, Cause]
"""A dirty key, and why it is dirty."""


def causes_of(entries: Iterable[Entry]) -> list[tuple[Cause, int]]:
    """Return the causes of these keys, each with how many keys in a row share it."""
    causes: list[tuple[Cause, int]] = []
    last, count = None, 0
    for _, cause in entries:
        if cause is last:
            count += 1
            continue
        if last is not None:
            causes.append((last, count))
        last, count = cause, 1
    if last is not None:
        causes.append((last, count))
    return causes


def let_go(entries: Sequence[Entry]) -> None:
    """Release the frames of these keys."""
    if len(entries) == 1:
        entries[0][1].frame.open -= 1
        return
    for cause, count in causes_of(entries):
        cause.frame.open -= count


def on_disk(entries: Iterable[Entry]) -> list[Entry]:
    """Return these keys as keys that are on disk: they hold no frame."""
    durable: list[Entry] = []
    last: Cause | None = None
    for key, cause in entries:
        if cause is not last:
            last, shared = cause, cause.holding(DURABLE)
        durable.append((key, shared))
    return durable


NAMED_KEYS_MAX = 3
NAMED_KEY_CHARS_MAX = 120
LONG_AGO_MS = 1
"""Since when a batch has failed whose keys were set aside before this process knew them."""


def in_log(outcome: Outcome) -> dict[str, str]:
    """Return a failure's reason as fields of a log line, with quotations of a function kept apart."""
    return {"reason": outcome.brief, FUNCTIONS_WORDS: outcome.reason} if outcome.brief else {"reason": outcome.reason}


def such_as(entries: Sequence[Entry]) -> list[str]:
    """Return the names of a few of these keys, for a log line; a long one is cut."""
    names = (key_text(key)[0] for key, _ in entries[:NAMED_KEYS_MAX])
    return [name if len(name) <= NAMED_KEY_CHARS_MAX else f"{name[: NAMED_KEY_CHARS_MAX - 1]}…" for name in names]


def moments_of(entries: Sequence[Entry]) -> Mapping[int, int]:
    """Return when these keys were captured (Unix ms), and how many at each moment: they come in reads, and are few."""
    moments: dict[int, int] = {}
    for cause, count in causes_of(entries):
        moments[cause.captured_ms] = moments.get(cause.captured_ms, 0) + count
    return moments


class Parents(NamedTuple):
    """What the records of a batch name as their parent (W3C), by key; ``at`` are the indexes of those entries."""

    of: Mapping[bytes, str]
    at: Sequence[int]


UNTRACED = Parents({}, ())


class Reading(Protocol):
    """What a batch waits for if its node can't be asked now, or has not answered yet."""

    def found(self) -> Sequence[Fetched]:
        """Return the values of the batch's first keys once they are read; none before, and none if they are not."""


@dataclass(slots=True, eq=False)
class Batch:
    """Keys that are delivered together; ``attempts`` failures count against the route's limit.

    ``fence_ms``: until then a lost invocation of these keys may still write.
    """

    entries: list[Entry]
    attempts: int = 0
    fence_ms: int = 0
    payload: bytes = b""
    sent: list[Entry] = field(default_factory=list)
    verdict: Outcome | None = None
    """Why it is given up, once its fence has passed; until then its keys stay in flight."""
    aside: Outcome | None = None
    """Why its keys go to disk, to wait there for long, once its fence has passed."""
    failing_since_ms: int = 0
    """When its keys first failed by themselves (monotonic); 0 if they have not."""
    together: int = 0
    """How many keys it may have if it was cut; 0 for any."""
    sent_ms: int = 0
    due_ms: int = 0
    is_waiting: bool = False
    """Whether it waits for its next attempt."""
    whole: Batch | None = None
    """What a probe was cut from."""
    reading: Reading | None = None
    """What it waits for: its node, and not its target."""
    claims: Claims | None = None
    """What is noted once it is accepted, of a route with `skip_unchanged`."""
    traced: Sequence[int] = ()
    """Which of its entries are traced, by index."""
    traceparent: str = ""
    """The context of its invocation (W3C), "" if nothing of it is traced."""
    _moments: tuple[int, Mapping[int, int]] = (0, {})

    def moments(self) -> Mapping[int, int]:
        """Return what `moments_of` says of its entries; counted once for as many as they are."""
        if self._moments[0] != len(self.entries):
            self._moments = len(self.entries), moments_of(self.entries)
        return self._moments[1]

    def may_probe(self, now_ms: int) -> bool:
        """Tell whether it may be sent before it is due, as a probe: it waits for nothing else."""
        return self.fence_ms <= now_ms and self.verdict is None and not self.aside and self.reading is None

    @property
    def is_suspect(self) -> bool:
        """Tell whether its keys have failed by themselves, and are to be sent again."""
        return self.attempts > 0 and self.verdict is None and self.aside is None

    @property
    def is_fresh(self) -> bool:
        """Tell whether it has no past: such batches may be merged."""
        return not (self.attempts or self.fence_ms or self.together or self.failing_since_ms or self.whole)

    @property
    def is_early(self) -> bool:
        """Tell whether it was sent before its next attempt was due, as a probe."""
        return self.sent_ms < self.due_ms

    def part(self, entries: list[Entry]) -> Batch:
        """Return a batch of some of its keys, with its past."""
        return Batch(
            entries,
            self.attempts,
            self.fence_ms,
            failing_since_ms=self.failing_since_ms,
            together=self.together,
        )


Due = tuple[int, int, Batch]
"""(due, sequence, batch)"""


class Retries:
    """Batches that wait for their next attempt, the earliest first.

    Suspects are kept apart from batches that wait because of others: those that may not start now block nothing.
    """

    def __init__(self) -> None:
        self.keys = 0
        self._sequence = 0
        self._suspects: list[Due] = []
        self._others: list[Due] = []

    def __len__(self) -> int:
        return len(self._suspects) + len(self._others)

    def __iter__(self) -> Iterator[Due]:
        yield from self._others
        yield from self._suspects

    def push(self, batch: Batch, due_ms: int) -> None:
        """Let this batch wait until then, and until its fence has passed."""
        self._sequence += 1
        self.keys += len(batch.entries)
        batch.is_waiting = True
        batch.due_ms = max(due_ms, batch.fence_ms)
        heapq.heappush(self._heap_of(batch), (batch.due_ms, self._sequence, batch))

    def _heap_of(self, batch: Batch) -> list[Due]:
        return self._suspects if batch.is_suspect else self._others

    def next_due_ms(self, *, suspects: bool) -> int | None:
        """Return when the first is due, with or without ``suspects``."""
        heads = [heap[0][0] for heap in self._open(suspects) if heap]
        return min(heads) if heads else None

    def _open(self, suspects: bool) -> tuple[list[Due], ...]:
        return (self._others, self._suspects) if suspects else (self._others,)

    def pop(self, now_ms: int, *, suspects: bool) -> Batch | None:
        """Return the one that has been due for longest, with or without ``suspects``; None if none is."""
        heaps = [heap for heap in self._open(suspects) if heap and heap[0][0] <= now_ms]
        if not heaps:
            return None
        batch = heapq.heappop(min(heaps, key=lambda heap: heap[0]))[2]
        return self._taken(batch)

    def _taken(self, batch: Batch) -> Batch:
        batch.is_waiting = False
        batch.whole = None
        self.keys -= len(batch.entries)
        return batch

    def cut(self, now_ms: int, keys_max: int) -> Batch | None:
        """Return the first keys of the batch that is due first, whenever that is, of those that `may_probe`."""
        free = [one for one in self if one[2].may_probe(now_ms)]
        if not free:
            return None
        first = min(free)
        batch = first[2]
        if len(batch.entries) <= keys_max:
            heap = self._heap_of(batch)
            heap.remove(first)
            heapq.heapify(heap)
            return self._taken(batch)
        probe = batch.part(batch.entries[:keys_max])
        probe.due_ms, probe.whole = batch.due_ms, batch
        batch.entries = batch.entries[keys_max:]
        self.keys -= keys_max
        return probe

    def restore(self, batch: Batch, sent: Batch) -> None:
        """Put back what was cut off and sent in vain: with the rest, if that still waits."""
        whole = sent.whole
        if whole is not None and whole.is_waiting and not batch.fence_ms:
            whole.entries += batch.entries
            self.keys += len(batch.entries)
        else:
            self.push(batch, sent.due_ms)

    def hasten(self, now_ms: int, *, suspects: bool) -> None:
        """Make all due now, except what is fenced."""
        for heap in self._open(suspects):
            for index, (due_ms, sequence, batch) in enumerate(heap):
                batch.due_ms = min(due_ms, max(now_ms, batch.fence_ms))
                heap[index] = (batch.due_ms, sequence, batch)
            heapq.heapify(heap)

    def expedite(self, is_wanted: Callable[[Batch], bool], now_ms: int) -> None:
        """Make some of them due now, except what is fenced."""
        for heap in (self._others, self._suspects):
            for index, (due_ms, sequence, batch) in enumerate(heap):
                if is_wanted(batch):
                    batch.due_ms = min(due_ms, max(now_ms, batch.fence_ms))
                    heap[index] = (batch.due_ms, sequence, batch)
            heapq.heapify(heap)

    def join(self, batch: Batch, waiting: Batch, keys_max: int) -> bool:
        """Let a batch wait as part of another one here, if neither has a past; tell whether it does."""
        if not (waiting.is_waiting and waiting.is_fresh and batch.is_fresh):
            return False
        if len(waiting.entries) + len(batch.entries) > keys_max:
            return False
        waiting.entries += batch.entries
        self.keys += len(batch.entries)
        return True

    def clear(self) -> list[Batch]:
        """Forget all; return them."""
        batches = [batch for _, _, batch in self]
        self._suspects, self._others, self.keys = [], [], 0
        for batch in batches:
            batch.is_waiting = False
        return batches
