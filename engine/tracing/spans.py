"""The spans that a passage stands for.  (pure)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

from engine.tracing.mark import Mark, parse_mark
from engine.tracing.passage import Passage

Attributes = dict[str, str | int | bool]

_MS_NS = 1_000_000


class Stage(IntEnum):
    """The stages of a change, in their order; a retry begins again with WAITED."""

    CAPTURED = 0
    """From when it was read from the server until a ring took it."""
    WAITED = 1
    """From there, or from a failure, until it was taken for a batch."""
    FETCHED = 2
    """From there until its value was read, and its payload made."""
    INVOKED = 3
    """From there until the target's answer."""
    SETTLED = 4
    """From there until nothing of the engine's holds it any more."""


class StageSpan(NamedTuple):
    """One span; times are Unix time in nanoseconds. ``parent_id`` is b"" for the first of a trace.

    ``linked`` are the trace and the span whose delivery it shared, b"" for none.
    """

    stage: Stage
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    start_ns: int
    end_ns: int
    attributes: Attributes
    linked: tuple[bytes, bytes] = (b"", b"")


def spans_of(told: Passage, new_id: Callable[[], bytes]) -> Iterator[StageSpan]:
    """Yield the spans of a passage, in their order; none where its mark is none."""
    mark = parse_mark(told.mark)
    if mark is None:
        return
    if told.captured_ms:
        yield _captured(told, mark)
    route: Attributes = {"ingest.invoker": told.invoker, "ingest.route": told.route}

    def span(
        stage: Stage, start_ns: int, end_ns: int, attributes: Attributes, span_id: bytes = b"", *links: bytes
    ) -> StageSpan:
        linked = (links[0], links[1]) if links else (b"", b"")
        return StageSpan(
            stage, mark.trace_id, span_id or new_id(), mark.span_id, start_ns, max(start_ns, end_ns),
            route | attributes, linked,
        )  # fmt: skip

    settles_from_ns = told.since_ns
    if told.taken_ns:
        yield span(Stage.WAITED, told.since_ns, told.taken_ns, {"ingest.coalesced": told.is_coalesced})
        settles_from_ns = told.started_ns or told.settled_ns
        yield span(Stage.FETCHED, told.taken_ns, settles_from_ns, {"ingest.node": told.node} if told.node else {})
    if told.answered_ns:
        invoked: Attributes = {
            "faas.invoked_name": told.function,
            "ingest.batch_size": told.batch_size,
            "ingest.attempt": told.attempt,
            "ingest.outcome": told.outcome,
        }
        settles_from_ns = told.answered_ns
        yield span(Stage.INVOKED, told.started_ns, told.answered_ns, invoked, told.span_id, *told.linked)
    if told.end:
        yield span(Stage.SETTLED, settles_from_ns, told.settled_ns, {"ingest.outcome": told.end})


def _captured(told: Passage, mark: Mark) -> StageSpan:
    attributes: Attributes = {"ingest.invoker": told.invoker, "ingest.event": told.event}
    if told.key:
        attributes["ingest.key"] = told.key
    # A clock in milliseconds may be behind by one.
    start_ns = min(told.captured_ms * _MS_NS, mark.written_ns)
    return StageSpan(Stage.CAPTURED, mark.trace_id, mark.span_id, b"", start_ns, mark.written_ns, attributes)
