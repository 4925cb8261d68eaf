"""What an invoker tells at once of a traced change: how it passed the stages since it was told of last.  (pure)

It is written down as it happens, and taken apart into spans by whoever exports it (`engine.tracing.spans`): that costs
too much for an invoker's loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Passage(msgspec.Struct, array_like=True, gc=False):
    """The stages of one trace in one lane; times are Unix time in nanoseconds, 0 for what did not happen.

    ``mark`` is the trace's (`engine.tracing.mark`). ``captured_ms`` (Unix ms) is 0 where it was told before when the
    change was captured. ``span_id`` is the invocation's, of the ``attempt``; ``linked`` the trace and the span that its
    record names instead. ``outcome`` is what became of the invocation, ``end`` of the change, "" while it goes on.
    """

    mark: bytes
    captured_ms: int
    event: str
    key: str
    invoker: int
    route: str
    since_ns: int
    taken_ns: int = 0
    started_ns: int = 0
    answered_ns: int = 0
    settled_ns: int = 0
    is_coalesced: bool = False
    node: str = ""
    function: str = ""
    batch_size: int = 0
    attempt: int = 0
    span_id: bytes = b""
    linked: tuple[bytes, bytes] = (b"", b"")
    outcome: str = ""
    end: str = ""

    def spans(self) -> int:
        """Return how many spans it stands for."""
        return bool(self.captured_ms) + 2 * bool(self.taken_ns) + bool(self.answered_ns) + bool(self.end)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Passage])


def encode_passages(passages: Sequence[Passage]) -> bytes:
    """Return passages as one message."""
    return _encoder.encode(passages)


def decode_passages(data: bytes) -> list[Passage]:
    """Return the passages of a message; raise `msgspec.MsgspecError` where it is none."""
    return _decoder.decode(data)
