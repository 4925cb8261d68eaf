"""Changes to bytes and back: msgpack arrays by msgspec, a list a frame.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.model import Change, Watermark
from engine.ring.ring import RingCorrupted
from engine.routing.nodes import NODES_MAX

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Change])

WORD_MAX = 2**64 - 1
CHANGE_BYTES_MAX = 64
"""What a change takes in a frame on top of its key and its event's name, at most."""


def encode_changes(changes: list[Change]) -> bytes:
    """Return a frame's payload."""
    return _encoder.encode(changes)


def encode_watermarks(watermarks: Sequence[Watermark]) -> bytes:
    """Return the payload of a frame of watermarks, one a node: each a change for no route."""
    return encode_changes(
        [Change(b"%d" % one.node, f"{one.server_mark} {one.version}", 0, one.moment_ms) for one in watermarks]
    )


def watermarks_of(changes: list[Change]) -> tuple[Watermark, ...]:
    """Return a frame's watermarks, none where it holds changes; raise `RingCorrupted` where it is neither."""
    if not changes or changes[0].routes:
        return ()
    return tuple(_watermark_of(change) for change in changes)


def _watermark_of(change: Change) -> Watermark:
    try:
        mark, version = change.event.split(" ")
        watermark = Watermark(change.captured_ms, int(mark), int(change.key), int(version))
    except ValueError as error:
        raise RingCorrupted(f"a watermark in a ring makes no sense: {error}") from None
    is_sound = not change.routes and 0 <= watermark.node < NODES_MAX
    if not is_sound or min(watermark) < 0 or max(watermark) > WORD_MAX:
        raise RingCorrupted(f"a watermark in a ring makes no sense: {watermark}")
    return watermark


def decode_changes(payload: bytes) -> list[Change]:
    """Return the changes of a frame's payload; raise `RingCorrupted` where it holds something else."""
    try:
        return _decoder.decode(payload)
    # Text that is not UTF-8, and nesting without end, are none of msgspec's own errors.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RingCorrupted(f"the payload of a frame in a ring makes no sense: {error}") from None
