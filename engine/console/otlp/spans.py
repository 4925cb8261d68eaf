"""Spans of invokers to OpenTelemetry's SDK, which exports them; what can't be exported is counted, and nobody waits.

The SDK makes the spans, with the ids and times that the engine gave them. Its queue is never handed more than it holds,
so every span is exported, refused by the receiver, or counted here as dropped.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Sequence

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from engine import __version__
from engine.config import Settings
from engine.console.otlp.receiver import Standing, resource_of, url_of
from engine.observe.logs import get_logger
from engine.tracing.line import MESSAGE_BYTES_MAX
from engine.tracing.mark import SPAN_BYTES
from engine.tracing.passage import Passage, decode_passages
from engine.tracing.spans import Stage, StageSpan, spans_of

log = get_logger(__name__)

QUEUE_SPANS_MAX = 16_384
LOOK_S = 0.25
"""How often the reader looks whether it is to end."""
_OUTCOMES_WELL = frozenset({"accepted", "unchanged", "gone"})
_KINDS = {Stage.CAPTURED: SpanKind.CONSUMER, Stage.INVOKED: SpanKind.CLIENT}


class Tally(msgspec.Struct):
    """How many spans there were, by what became of them."""

    handed: int = 0
    exported: int = 0
    refused: int = 0
    dropped: int = 0

    def has_room(self, spans: int) -> bool:
        """Tell whether the queue holds so many more."""
        return self.handed - self.exported - self.refused + spans <= QUEUE_SPANS_MAX


class _Counted(SpanExporter):
    """An exporter, and what becomes of what it is given."""

    def __init__(self, exporter: SpanExporter, tally: Tally, standing: Standing) -> None:
        self._exporter, self._tally, self._standing = exporter, tally, standing

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export them; every failure counts."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            is_taken = result is SpanExportResult.SUCCESS
            if is_taken:
                self._tally.exported += len(spans)
            else:
                self._tally.refused += len(spans)
            self._standing.heard(is_taken=is_taken)
        return result

    def shutdown(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()


class _Given(IdGenerator):
    """Ids that the engine has chosen already."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        """Return the trace's."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the span's."""
        return self.span_id


class SpanMaker:
    """Makes the SDK's spans of what invokers tell; one thread's."""

    def __init__(self, provider: TracerProvider, ids: _Given) -> None:
        self._tracer: Tracer = provider.get_tracer("ingest-engine", __version__)
        self._ids = ids

    def make(self, told: StageSpan) -> None:
        """Make a span, begun and ended when the engine says."""
        ids = self._ids
        ids.trace_id, ids.span_id = int.from_bytes(told.trace_id, "big"), int.from_bytes(told.span_id, "big")
        parent = Context()
        if told.parent_id:
            parent = set_span_in_context(NonRecordingSpan(_context(told.trace_id, told.parent_id)), parent)
        links = [Link(_context(*told.linked))] if told.linked[0] else None
        span = self._tracer.start_span(
            told.stage.name.lower(),
            parent,
            kind=_KINDS.get(told.stage, SpanKind.INTERNAL),
            attributes=told.attributes,
            links=links,
            start_time=told.start_ns,
        )
        how = told.attributes.get("ingest.outcome", "accepted")
        if told.stage is Stage.INVOKED and how not in _OUTCOMES_WELL:
            span.set_status(Status(StatusCode.ERROR, str(how)))
        span.end(told.end_ns)


def _context(trace_id: bytes, span_id: bytes) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), True, TraceFlags(TraceFlags.SAMPLED)
    )


class SpanSender:
    """Takes what invokers tell, in a thread of its own, and has it exported in another one, which is the SDK's."""

    def __init__(self, settings: Settings, spans: socket.socket) -> None:
        url, ids = url_of(settings.otlp.endpoint, "traces"), _Given()
        self.tally = Tally()
        exporter = _Counted(OTLPSpanExporter(url), self.tally, Standing("traces", url))
        # What is traced is the engine's choice, and made already: OTEL_TRACES_SAMPLER has no say.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource_of(settings), id_generator=ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS_MAX))
        self._maker = SpanMaker(self._provider, ids)
        self._spans = spans
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="otlp-spans", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            is_over = self._is_over.is_set()
            is_ready = select.select([self._spans], [], [], 0 if is_over else LOOK_S)[0]
            if is_ready:
                self._take(self._spans.recv(MESSAGE_BYTES_MAX))
            elif is_over:
                return

    def _take(self, message: bytes) -> None:
        try:
            passages = decode_passages(message)
        except msgspec.MsgspecError as error:
            log.error("spans_not_understood", error=str(error))
            return
        for passage in passages:
            self._make(passage)

    def _make(self, passage: Passage) -> None:
        if not self.tally.has_room(passage.spans()):
            self.tally.dropped += passage.spans()
            return
        for span in spans_of(passage, lambda: os.urandom(SPAN_BYTES)):
            self.tally.handed += 1
            self._maker.make(span)

    def close(self, limit_s: float) -> None:
        """Have what is here exported, and end; give it up after so long."""
        self._is_over.set()
        self._thread.join(limit_s)
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(limit_s)
