"""Entries of a stream: which keys they name, or what stands for the records that they carry.  (pure)

They are passed on in the same form as a subscription's events, so that the dirty set treats both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.config import CaptureSettings
from engine.routing.byte_classes import channel_prefix
from engine.routing.events import ENTRY, NAMED
from engine.routing.streams import entry_key

_KIND, _NAMED, _ENTRY = b"pmessage", NAMED.encode(), ENTRY.encode()

EntryId = tuple[int, int]


@dataclass(slots=True)
class Taken:
    """What some entries of a stream say. ``events`` are as a subscription's; ``ids`` are those of all entries except
    known ones.

    ``malformed`` name no key, and ``gone`` were deleted before they were read.
    """

    events: list[list[Any]] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    malformed: list[bytes] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)

    def next_reply(self) -> Callable[[], Any]:
        """Return what hands out the events one by one, and False at their end."""
        events: Iterator[Any] = iter(self.events)
        return lambda: next(events, False)


class Shape:
    """How entries are read: ``capture.key_field`` says which field names a key; without it they carry their record."""

    def __init__(self, capture: CaptureSettings, database: int) -> None:
        self._prefix = channel_prefix(database)
        self._key_field = capture.key_field.encode()
        self._event_field = capture.event_field.encode()

    @property
    def carries(self) -> bool:
        """Tell whether each entry is a record of its own."""
        return not self._key_field

    def take(self, stream: bytes, entries: Sequence[Any], known: Container[bytes] = ()) -> Taken:
        """Return what these entries of a stream say, in their order; ``known`` ones are skipped."""
        taken = Taken()
        append, note, prefix = taken.events.append, taken.ids.append, self._prefix
        key_field, event_field = self._key_field, self._event_field
        for entry_id, fields in entries:
            if known and entry_id in known:
                continue
            note(entry_id)
            if fields is None:
                taken.gone.append(entry_id)
                continue
            if not key_field:
                append([_KIND, b"", prefix + entry_key(stream, entry_id), _ENTRY])
                continue
            key, event = None, _NAMED
            for index in range(0, len(fields) - 1, 2):
                name = fields[index]
                if name == key_field:
                    key = fields[index + 1]
                elif name == event_field:
                    event = fields[index + 1]
            if key is None:
                taken.malformed.append(entry_id)
                continue
            append([_KIND, b"", prefix + key, event])
        return taken


def parsed(entry_id: bytes) -> EntryId:
    """Return an id in the form by which ids are ordered."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def before(entry_id: bytes) -> bytes:
    """Return the greatest id that is less than this one."""
    milliseconds, sequence = parsed(entry_id)
    if sequence:
        return b"%d-%d" % (milliseconds, sequence - 1)
    return b"%d-%d" % (milliseconds - 1, 2**64 - 1) if milliseconds else b"0-0"
