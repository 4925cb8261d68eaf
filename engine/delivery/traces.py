"""Traced changes in an invoker: what each stage of theirs took, told to whoever exports it.

A lane knows its traced keys by name, apart from everything that its keys need: while none of them is traced, an empty
dictionary is asked once a stage and batch. A change that is coalesced is delivered with another one of its key, so its
trace goes on with that delivery; the record names the oldest of them, and the others link to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from engine.config import RouteSettings
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.retry import failed_entries
from engine.delivery.lanes.work import Batch, Entry
from engine.delivery.reading.values import key_text
from engine.model import Outcome, Run
from engine.tracing.line import Teller
from engine.tracing.mark import SPAN_BYTES, Mark, parse_mark, traceparent_of
from engine.tracing.spans import Attributes, Stage, StageSpan

TRACED_MAX = 2_000
"""Traces under way in one lane; past it a change is not followed, and counted."""
SPANS_OF_A_TRACE = 5
SWEEP_MS = 250
"""How often there is a look for traced keys that have left a lane by another way than an invocation."""
_MS_NS = 1_000_000


class Traced(Protocol):
    """A lane, as far as traces know it."""

    traces: LaneTraces
    keys: Lane
    retired_by: int


class _Trace:
    """A trace under way in a lane: which stage it is in, and since when."""

    __slots__ = ("attempts", "captured_ms", "event", "mark", "named", "since_ns", "span_id", "stage")

    def __init__(self, mark: Mark, run: Run) -> None:
        self.mark = mark
        self.event, self.captured_ms = run.event, run.captured_ms
        self.stage = Stage.WAITED
        self.since_ns = mark.written_ns
        self.attempts = 0
        self.span_id = b""
        """Of the invocation that it is part of, or will be."""
        self.named = (b"", b"")
        """Trace and span that the record names instead."""


class Tracing:
    """What the lanes of one invoker share."""

    def __init__(
        self,
        teller: Teller,
        invoker: int,
        *,
        names_keys: bool,
        server: str = "",
        node_of: Callable[[bytes, str], str] = lambda _key, _event: "",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.teller = teller
        self.clock_ns = clock_ns
        self.node_of = node_of
        """Returns which node a key is read from, "" for the one ``server`` that there is."""
        self.server = server
        self._about: Attributes = {"ingest.invoker": invoker}
        self._names_keys = names_keys
        self._sweep_due_ms = 0

    def captured(self, runs: Iterable[Run]) -> None:
        """Tell that a ring took these, of those that are traced."""
        for run in runs:
            if run.trace and (mark := parse_mark(run.trace)) is not None:
                about: Attributes = {**self._about, "ingest.event": run.event}
                if self._names_keys and run.keys:
                    about["ingest.key"] = key_text(run.keys[0])[0]
                start_ns = min(run.captured_ms * _MS_NS, mark.written_ns)
                self._tell(Stage.CAPTURED, mark, mark.span_id, b"", start_ns, mark.written_ns, about)

    def _tell(
        self,
        stage: Stage,
        mark: Mark,
        span_id: bytes,
        parent_id: bytes,
        start_ns: int,
        end_ns: int,
        about: Attributes,
        linked: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        span = StageSpan(stage, mark.trace_id, span_id, parent_id, start_ns, max(start_ns, end_ns), about, linked)
        self.teller.tell(span)

    def passed(self, trace: _Trace, end_ns: int, about: Attributes, span_id: bytes = b"") -> None:
        """Tell that a trace has passed the stage that it is in."""
        mark = trace.mark
        linked = trace.named if trace.stage is Stage.INVOKED else (b"", b"")
        self._tell(
            trace.stage, mark, span_id or os.urandom(SPAN_BYTES), mark.span_id, trace.since_ns, end_ns,
            {**self._about, **about}, linked,
        )  # fmt: skip
        trace.since_ns = end_ns

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
        self._about: Attributes = {}
        self._invoked: Attributes = {}

    def use(self, route: RouteSettings) -> None:
        """Tell of this route from now on."""
        self._about = {"ingest.route": route.name}
        self._invoked = {**self._about, "faas.invoked_name": route.function}

    def arrive(self, runs: Iterable[Run]) -> None:
        """Follow those of these changes that are traced; they are in the lane already."""
        assert self._tracing is not None
        for run in runs:
            if not run.trace or (mark := parse_mark(run.trace)) is None:
                continue
            for key in run.keys:
                if self._count >= TRACED_MAX:
                    self._tracing.teller.drop(SPANS_OF_A_TRACE - 1)
                    continue
                self._count += 1
                self.under_way.setdefault(key, []).append(_Trace(mark, run))

    def take(self, batch: Batch, held: Mapping[bytes, object]) -> None:
        """Take in that these keys are taken for a batch; what is ``held`` behind one of them waits on."""
        assert self._tracing is not None
        known = self.under_way
        batch.traced = [key for key, _ in batch.entries if key in known]
        if not batch.traced:
            return
        now_ns, causes = self._tracing.clock_ns(), dict(batch.entries)
        for key in batch.traced:
            traces, cause = known[key], causes[key]
            for trace in traces:
                if trace.stage is not Stage.WAITED or (key in held and not trace.attempts):
                    continue
                is_coalesced = len(traces) > 1 or cause.captured_ms < trace.captured_ms or cause.event != trace.event
                about: Attributes = {**self._about, "ingest.coalesced": is_coalesced}
                self._tracing.passed(trace, now_ns, about)
                trace.stage = Stage.FETCHED

    def _of(self, key: bytes, *stages: Stage) -> list[_Trace]:
        return [trace for trace in self.under_way.get(key, ()) if trace.stage in stages]

    def begin(self, batch: Batch) -> dict[bytes, str]:
        """Return what the records of a batch name as their parent, by key: the invocation that is about to start."""
        parents: dict[bytes, str] = {}
        for key in batch.traced:
            first: _Trace | None = None
            for trace in self._of(key, Stage.FETCHED):
                trace.span_id = os.urandom(SPAN_BYTES)
                trace.named = (b"", b"") if first is None else (first.mark.trace_id, first.span_id)
                first = first or trace
            if first is not None:
                parents[key] = traceparent_of(first.mark.trace_id, first.span_id)
        return parents

    def start(self, batch: Batch, sent: Sequence[Entry], parents: Mapping[bytes, str]) -> None:
        """Take in that a batch is on its way, with records for these; the first traced one is its own context."""
        assert self._tracing is not None
        events = dict(sent)
        batch.traced = [key for key in batch.traced if key in events and key in parents]
        if not batch.traced:
            return
        batch.traceparent = parents[batch.traced[0]]
        now_ns, tracing = self._tracing.clock_ns(), self._tracing
        for key in batch.traced:
            about: Attributes = {
                **self._about,
                "ingest.node": tracing.node_of(key, events[key].event) or tracing.server,
            }
            for trace in self._of(key, Stage.FETCHED):
                tracing.passed(trace, now_ns, about)
                trace.stage = Stage.INVOKED
                trace.attempts += 1

    def answered(self, batch: Batch, outcome: Outcome) -> None:
        """Take in what became of an invocation: what was accepted is settled, all else waits."""
        assert self._tracing is not None
        now_ns, tracing = self._tracing.clock_ns(), self._tracing
        failed = {key for key, _ in failed_entries(batch, outcome)[0]}
        how = outcome.failure.name.lower()
        for key in batch.traced:
            said = how if key in failed else "accepted"
            about: Attributes = {**self._invoked, "ingest.batch_size": len(batch.sent), "ingest.outcome": said}
            for trace in self._of(key, Stage.INVOKED):
                tracing.passed(trace, now_ns, about | {"ingest.attempt": trace.attempts}, trace.span_id)
                trace.stage = Stage.WAITED if key in failed else Stage.SETTLED

    def accepted(self, batch: Batch) -> None:
        """End what is traced of a batch's keys that were accepted."""
        for key in batch.traced:
            if key in self.under_way:
                self._end(key, "accepted", lambda trace: trace.stage is Stage.SETTLED)

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
            if not is_over(trace):
                left.append(trace)
                continue
            if trace.stage is Stage.FETCHED:
                self._tracing.passed(trace, now_ns, self._about)
            trace.stage = Stage.SETTLED
            self._tracing.passed(trace, now_ns, {**self._about, "ingest.outcome": how})
            self._count -= 1
        if left:
            self.under_way[key] = left
