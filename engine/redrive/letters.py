"""What a redrive reads in a dead letter: which key, and how to mark it.  (pure)"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Container
from dataclasses import dataclass

import msgspec

from engine.routing.events import EVENTS_OF_ABSENCE, REPAIR, REPAIR_GONE


@dataclass(frozen=True, slots=True)
class Letter:
    """A key to mark dirty: ``event`` is `REPAIR`, or `REPAIR_GONE` if the letter's key was gone.

    ``captured_ms`` is when its change was heard (Unix time), 0 if the letter does not say. ``db`` is the key's
    database, None if the letter does not say.
    """

    key: bytes
    event: str
    route: str
    captured_ms: int = 0
    db: int | None = None


class _Record(msgspec.Struct):
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    db: int | msgspec.UnsetType = msgspec.UNSET


class _Line(msgspec.Struct):
    """The fields that matter; letters of other versions may have fewer or more of the others."""

    id: str
    route: str
    event: str = ""
    captured_at_ms: int = 0
    id_encoding: str = ""
    record: _Record | msgspec.UnsetType = msgspec.UNSET
    db: int | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Line).decode


def read_letter(content: bytes) -> Letter | None:
    """Return what a letter asks for; None if it is not a letter."""
    try:
        line = _decode(content)
        key = _key(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError):
        return None
    event = REPAIR_GONE if _tells_of_absence(line) else REPAIR
    return Letter(key, event, line.route, line.captured_at_ms, _database(line))


def _database(line: _Line) -> int | None:
    told = line.db
    if told is msgspec.UNSET and line.record is not msgspec.UNSET:
        told = line.record.db
    return None if told is msgspec.UNSET else told


def _key(line: _Line) -> bytes:
    if line.id_encoding == "base64":
        return base64.b64decode(line.id, validate=True)
    if line.id_encoding:
        raise ValueError("an unknown encoding")
    return line.id.encode()


def _tells_of_absence(line: _Line) -> bool:
    if line.record is not msgspec.UNSET and line.record.body is not msgspec.UNSET:
        return bytes(line.record.body) == b"null"
    # A record without its body had one; without a record, the event is all that is known.
    return line.record is msgspec.UNSET and (line.event in EVENTS_OF_ABSENCE or line.event == REPAIR_GONE)


def is_known(route: str, names: Container[str], mapping_prefix: str) -> bool:
    """Tell whether the engine may have a route of this name; those of mapping hashes are named by their keys."""
    return route in names or (mapping_prefix != "" and route.startswith(mapping_prefix))
