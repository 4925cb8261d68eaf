"""Frames between the Lambda runtime and its workers: two lengths, a small JSON head, a body of plain bytes.

Payloads travel as they came: the server never parses them, and nothing is ever pickled.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct("<II")


def encode_head(head: dict[str, Any], body_bytes: int) -> bytes:
    """Return what goes before the body."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), body_bytes) + text


async def read(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """Return the next head and body; raise IncompleteReadError at the end."""
    head_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    frame = await reader.readexactly(head_bytes + body_bytes)
    return json.loads(frame[:head_bytes]), frame[head_bytes:]


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Return the next head and body from a blocking socket, None at the end."""
    lengths = _receive_exactly(connection, _LENGTHS.size)
    if lengths is None:
        return None
    head_bytes, body_bytes = _LENGTHS.unpack(lengths)
    frame = _receive_exactly(connection, head_bytes + body_bytes)
    return None if frame is None else (json.loads(bytes(frame[:head_bytes])), bytes(frame[head_bytes:]))


def send(connection: socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    """Write a frame to a blocking socket."""
    connection.sendall(encode_head(head, len(body)) + body)


def _receive_exactly(connection: socket.socket, size: int) -> memoryview | None:
    view = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        received = connection.recv_into(view[filled:])
        if received == 0:
            return None
        filled += received
    return view
