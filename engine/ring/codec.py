"""Changes to bytes and back: msgpack arrays by msgspec, a list a frame."""

from __future__ import annotations

import msgspec

from engine.model import Change

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Change])

CHANGE_BYTES_MAX = 64
"""What a change takes in a frame on top of its key and its event's name, at most."""


def encode_changes(changes: list[Change]) -> bytes:
    """Return a frame's payload."""
    return _encoder.encode(changes)


def decode_changes(payload: bytes) -> list[Change]:
    """Return the changes of a frame's payload."""
    return _decoder.decode(payload)
