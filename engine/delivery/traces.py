"""Traced changes in an invoker: when each of them passed which stage, told to whoever exports it.

A lane knows its traced keys by name, apart from everything that its keys need: while none of them is traced, an empty
dictionary is asked once a stage and batch. A change that is coalesced is delivered with another one of its key, so its
trace goes on with that delivery; the record names the oldest of them, and the others link to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol

from engine.config import RouteSettings
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import failed_entries
from engine.delivery.lanes.work import Batch, Entry, Parents
from engine.delivery.reading.values import key_text
from engine.model import Outcome, Run
from engine.tracing.line import Teller
from engine.tracing.mark import SPAN_BYTES, TRACE_BYTES, parse_mark, traceparent_of
from engine.tracing.passage import Passage
from engine.tracing.spans import Stage

TRACED_MAX = 2_000
"""Traces under way in one lane; past it a change is not followed, and counted."""
SPANS_OF_A_TRACE = 5
SWEEP_MS = 250
"""How often there is a look for traced keys that have left a lane by another way than an invocation."""
ACCEPTED = "accepted"


class _Origin:
    """A change that is traced, in whatever lanes it is; the first passage that is told tells of it too."""

    __slots__ = ("captured_ms", "event", "is_told", "key", "mark", "written_ns")

    def __init__(self, run: Run, written_ns: int, key: str) -> None:
        self.mark, self.event, self.captured_ms = run.trace, run.event, run.captured_ms
        self.written_ns = written_ns
        self.key = key
        self.is_told = False


class _Trace:
    """A trace under way in a lane: which stage it is in, and when it passed those before."""

    __slots__ = (
        "answered_ns", "attempts", "batch_size", "is_coalesced", "linked", "node", "origin", "since_ns", "span_id",
        "stage", "started_ns", "taken_ns",
    )  # fmt: skip

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self.attempts = self.batch_size = 0
        self.span_id, self.linked = b"", (b"", b"")
        self.node = ""
        self.is_coalesced = False
        self.begin_anew(origin.written_ns)

    def begin_anew(self, since_ns: int) -> None:
        """Wait again, since then."""
        self.stage, self.since_ns = Stage.WAITED, since_ns
        self.taken_ns = self.started_ns = self.answered_ns = 0


class Traced(Protocol):
    """A lane, as far as traces know it."""

    traces: LaneTraces
    keys: Lane
    retired_by: int


class Tracing:
    """What the lanes of one invoker share."""

    def __init__(
        self,
        teller: Teller,
        invoker: int,
        *,
        names_keys: bool,
        server: str = "",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.teller = teller
        self.clock_ns = clock_ns
        self.invoker = invoker
        self.node_of: Callable[[bytes, str], str] = lambda _key, _event: server
        """Returns which node a key is read from."""
        self._names_keys = names_keys
        self._sweep_due_ms = 0

    def origins_of(self, runs: Iterable[Run]) -> dict[bytes, _Origin]:
        """Return those of these changes that are traced, by their marks."""
        found: dict[bytes, _Origin] = {}
        for run in runs:
            if run.trace and run.keys and (mark := parse_mark(run.trace)) is not None:
                key = key_text(run.keys[0])[0] if self._names_keys else ""
                found[run.trace] = _Origin(run, mark.written_ns, key)
        return found

    def look(self, lanes: Iterable[Traced], moment_ms: int, *, is_last: bool) -> None:
        """Send what there is to tell; find traced keys that have left their lane unseen (`LaneTraces.sweep`)."""
        if moment_ms >= self._sweep_due_ms or is_last:
            self._sweep_due_ms = moment_ms + SWEEP_MS
            for lane in lanes:
                if lane.traces.under_way:
                    lane.traces.sweep(lane.keys, "handed_on" if lane.retired_by else "backlog")
        self.teller.flush()


class LaneTraces:
    """The traces of one lane, by key; more than one where changes of a key are delivered together, or follow."""

    def __init__(self, tracing: Tracing | None) -> None:
        self.under_way: dict[bytes, list[_Trace]] = {}
        self._tracing = tracing
        self._count = 0
        self._route = self._function = ""

    def use(self, route: RouteSettings) -> None:
        """Tell of this route from now on."""
        self._route, self._function = route.name, route.function

    def arrive(self, runs: Iterable[Run], origins: Mapping[bytes, _Origin]) -> None:
        """Follow those of these changes that are traced; they are in the lane already."""
        assert self._tracing is not None
        for run in runs:
            origin = origins.get(run.trace) if run.trace else None
            if origin is None:
                continue
            if self._count >= TRACED_MAX:
                self._tracing.teller.drop(SPANS_OF_A_TRACE)
                continue
            self._count += 1
            self.under_way.setdefault(run.keys[0], []).append(_Trace(origin))

    def take(self, batch: Batch, held: Mapping[bytes, object]) -> None:
        """Take in that these keys are taken for a batch; what is ``held`` behind one of them waits on."""
        assert self._tracing is not None
        known, entries = self.under_way, batch.entries
        batch.traced = [index for index, (key, _) in enumerate(entries) if key in known]
        if not batch.traced:
            return
        now_ns = self._tracing.clock_ns()
        for index in batch.traced:
            key, cause = entries[index]
            traces = known[key]
            for trace in traces:
                if trace.stage is Stage.WAITED and (trace.attempts or key not in held):
                    origin = trace.origin
                    trace.is_coalesced = (
                        len(traces) > 1 or cause.captured_ms < origin.captured_ms or cause.event != origin.event
                    )
                    trace.taken_ns = now_ns
                    trace.stage = Stage.FETCHED

    def begin(self, batch: Batch) -> Parents:
        """Return what the records of a batch name as their parent: the invocation that is about to start."""
        parents: dict[bytes, str] = {}
        entries, known, indexes = batch.entries, self.under_way, []
        for index in _still(entries, batch.traced, known):
            key, named = entries[index][0], (b"", b"")
            for trace in known[key]:
                if trace.stage is Stage.FETCHED:
                    trace.span_id, trace.linked = os.urandom(SPAN_BYTES), named
                    named = named if named[0] else (trace.origin.mark[:TRACE_BYTES], trace.span_id)
            if named[0]:
                parents[key] = traceparent_of(*named)
                indexes.append(index)
        batch.traced = indexes
        return Parents(parents, indexes)

    def start(self, batch: Batch, parents: Parents) -> None:
        """Take in that a batch is on its way, with these records; the first traced one is its own context."""
        assert self._tracing is not None
        sent, tracing = batch.entries, self._tracing
        batch.traced = _still(sent, batch.traced, parents.of)
        if not batch.traced:
            return
        batch.traceparent = parents.of[sent[batch.traced[0]][0]]
        now_ns = tracing.clock_ns()
        for index in batch.traced:
            key, cause = sent[index]
            node = tracing.node_of(key, cause.event)
            for trace in self.under_way[key]:
                if trace.stage is Stage.FETCHED:
                    trace.node, trace.started_ns, trace.stage = node, now_ns, Stage.INVOKED
                    trace.attempts += 1

    def answered(self, batch: Batch, outcome: Outcome) -> None:
        """Take in what became of an invocation: what was accepted is about to be settled, all else waits."""
        assert self._tracing is not None
        now_ns = self._tracing.clock_ns()
        failed = {key for key, _ in failed_entries(batch, outcome)[0]}
        for key in _keys_at(batch.entries, batch.traced):
            for trace in self.under_way.get(key, ()):
                if trace.stage is Stage.INVOKED:
                    trace.answered_ns, trace.batch_size = now_ns, len(batch.sent)
                    if key in failed:
                        self._tell(trace, outcome=outcome.failure.name.lower())
                        trace.begin_anew(now_ns)
                    else:
                        trace.stage = Stage.SETTLED

    def accepted(self, batch: Batch) -> None:
        """End what is traced of a batch's keys that were accepted."""
        for key in _keys_at(batch.entries, batch.traced):
            if key in self.under_way:
                self._end(key, ACCEPTED, lambda trace: trace.stage is Stage.SETTLED)

    def settle(self, entries: Iterable[Entry], how: str) -> None:
        """End what is traced of these keys, which are settled; what has changed again since goes on."""
        for key, _ in entries:
            if key in self.under_way:
                self._end(key, how, lambda trace: trace.stage is not Stage.WAITED or trace.attempts > 0)

    def sweep(self, keys: Lane, how: str) -> None:
        """End what is traced of keys that are in the lane no more: they went to disk, or to another lane."""
        for key in list(self.under_way):
            if not (key in keys.waiting or key in keys.in_flight or key in keys.held):
                self._end(key, how, lambda _: True)

    def _end(self, key: bytes, how: str, is_over: Callable[[_Trace], bool]) -> None:
        assert self._tracing is not None
        now_ns, left = self._tracing.clock_ns(), []
        for trace in self.under_way.pop(key):
            if is_over(trace):
                self._count -= 1
                self._tell(trace, outcome=ACCEPTED, settled_ns=now_ns, end=how)
            else:
                left.append(trace)
        if left:
            self.under_way[key] = left

    def _tell(self, trace: _Trace, *, outcome: str, settled_ns: int = 0, end: str = "") -> None:
        assert self._tracing is not None
        origin = trace.origin
        captured_ms = 0 if origin.is_told else origin.captured_ms
        origin.is_told = True
        self._tracing.teller.tell(
            Passage(
                origin.mark, captured_ms, origin.event, origin.key, self._tracing.invoker, self._route, trace.since_ns,
                trace.taken_ns, trace.started_ns, trace.answered_ns, settled_ns, trace.is_coalesced, trace.node,
                self._function, trace.batch_size, trace.attempts, trace.span_id, trace.linked, outcome, end,
            )
        )  # fmt: skip


def _still(entries: Sequence[Entry], indexes: Sequence[int], known: Container[bytes]) -> Sequence[int]:
    """Return which of these entries are known, by index; ``indexes`` are those of before some were taken out."""
    if indexes and indexes[-1] < len(entries) and all(entries[index][0] in known for index in indexes):
        return indexes
    return [index for index, (key, _) in enumerate(entries) if key in known]


def _keys_at(entries: Sequence[Entry], indexes: Sequence[int]) -> list[bytes]:
    """Return these of the entries' keys; entries that were taken out since leave fewer."""
    return [entries[index][0] for index in indexes if index < len(entries)]
