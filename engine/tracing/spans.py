"""What is said of a stage that a traced change has passed: to bytes and back.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

Attributes = dict[str, str | int | bool]


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


class StageSpan(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One span; times are Unix time in nanoseconds. ``parent_id`` is b"" for the first of a trace."""

    stage: Stage
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    start_ns: int
    end_ns: int
    attributes: Attributes
    linked: tuple[bytes, bytes] = (b"", b"")
    """Trace and span whose delivery it shared; b"" for none."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[StageSpan])


def encode_spans(spans: Sequence[StageSpan]) -> bytes:
    """Return spans as one message."""
    return _encoder.encode(spans)


def decode_spans(data: bytes) -> list[StageSpan]:
    """Return the spans of a message; raise `msgspec.MsgspecError` where it is none."""
    return _decoder.decode(data)
