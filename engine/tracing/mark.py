"""The mark of a traced change: what it has with it in a ring's frame, and W3C's text of it in a record.  (pure)

A mark is 32 bytes: the trace's id, the id of its first span, and when a ring took the change (Unix time, ns). Whoever
reads the frame again, after a crash, goes on with the same trace.
"""

from __future__ import annotations

from typing import NamedTuple

TRACE_BYTES, SPAN_BYTES, TIME_BYTES = 16, 8, 8
IDS_BYTES = TRACE_BYTES + SPAN_BYTES
MARK_BYTES = IDS_BYTES + TIME_BYTES

TRACEPARENT = "traceparent"
"""W3C's name of the header; here of a record's field, a client context's entry, a message's attribute."""


class Mark(NamedTuple):
    """A mark, taken apart."""

    trace_id: bytes
    span_id: bytes
    written_ns: int


def mark_of(ids: bytes, written_ns: int) -> bytes:
    """Return a mark; ``ids`` are as many random bytes as both ids have."""
    assert len(ids) == IDS_BYTES
    return ids + written_ns.to_bytes(TIME_BYTES, "big")


def parse_mark(data: bytes) -> Mark | None:
    """Return what a mark says, None where it is none."""
    if len(data) != MARK_BYTES:
        return None
    written_ns = int.from_bytes(data[IDS_BYTES:], "big")
    return Mark(data[:TRACE_BYTES], data[TRACE_BYTES:IDS_BYTES], written_ns)


def traceparent_of(trace_id: bytes, span_id: bytes) -> str:
    """Return W3C's text of a sampled span: version 00, and no other flag than *sampled*."""
    return f"00-{trace_id.hex()}-{span_id.hex()}-01"
