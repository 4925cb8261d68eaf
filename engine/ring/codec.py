"""Changes to bytes and back: msgpack arrays by msgspec, a list a frame.  (pure)"""

from __future__ import annotations

import msgspec

from engine.model import Change, Watermark
from engine.ring.ring import RingCorrupted

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Change])

CHANGE_BYTES_MAX = 64
"""What a change takes in a frame on top of its key and its event's name, at most."""


def encode_changes(changes: list[Change]) -> bytes:
    """Return a frame's payload."""
    return _encoder.encode(changes)


def encode_watermark(watermark: Watermark) -> bytes:
    """Return the payload of a watermark: a change of no key, for no route."""
    return encode_changes([Change(b"", str(watermark.server_mark), 0, watermark.moment_ms)])


def watermark_of(changes: list[Change]) -> Watermark | None:
    """Return the watermark that a frame is, None where it holds changes; raise `RingCorrupted` where it is neither."""
    if len(changes) != 1 or changes[0].routes:
        return None
    try:
        return Watermark(changes[0].captured_ms, int(changes[0].event))
    except ValueError as error:
        raise RingCorrupted(f"a watermark in a ring makes no sense: {error}") from None


def decode_changes(payload: bytes) -> list[Change]:
    """Return the changes of a frame's payload; raise `RingCorrupted` where it holds something else."""
    try:
        return _decoder.decode(payload)
    # Text that is not UTF-8, and nesting without end, are none of msgspec's own errors.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RingCorrupted(f"the payload of a frame in a ring makes no sense: {error}") from None
