"""Runs of keys to bytes and back: msgpack arrays by msgspec, a list of runs a frame.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.model import Run, Watermark
from engine.ring.ring import RingCorrupted
from engine.routing.nodes import NODES_MAX

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Run])

WORD_MAX = 2**64 - 1
CHANGE_BYTES_MAX = 96
"""What a run of one key takes in a frame on top of its key and its event's name, at most, a trace's mark included."""


def encode_runs(runs: list[Run]) -> bytes:
    """Return a frame's payload."""
    return _encoder.encode(runs)


def encode_watermarks(watermarks: Sequence[Watermark]) -> bytes:
    """Return the payload of a frame of watermarks, one a node: each a run for no route."""
    return encode_runs(
        [Run(f"{one.server_mark} {one.version}", 0, one.moment_ms, [b"%d" % one.node]) for one in watermarks]
    )


def watermarks_of(runs: list[Run]) -> tuple[Watermark, ...]:
    """Return a frame's watermarks, none if it holds keys; raise `RingCorrupted` if it is neither."""
    if not runs or runs[0].routes:
        return ()
    return tuple(map(_watermark_of, runs))


def _watermark_of(run: Run) -> Watermark:
    try:
        mark, version = run.event.split(" ")
        (node,) = run.keys
        watermark = Watermark(run.captured_ms, int(mark), int(node), int(version))
    except ValueError as error:
        raise RingCorrupted(f"a watermark in a ring is invalid: {error}") from None
    is_sound = not run.routes and 0 <= watermark.node < NODES_MAX
    if not is_sound or min(watermark) < 0 or max(watermark) > WORD_MAX:
        raise RingCorrupted(f"a watermark in a ring is invalid: {watermark}")
    return watermark


def decode_runs(payload: bytes) -> list[Run]:
    """Return the runs of a frame's payload; raise `RingCorrupted` if it holds something else."""
    try:
        return _decoder.decode(payload)
    # Text that is not UTF-8, and endless nesting, raise errors that are not msgspec's own.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RingCorrupted(f"the payload of a frame in a ring is invalid: {error}") from None
