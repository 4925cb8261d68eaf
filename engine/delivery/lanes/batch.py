"""Values that were read, made into one payload within the limits.  (pure)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import msgspec

from engine.config import RouteSettings
from engine.delivery.lanes.work import UNTRACED, Cause, Entry, Parents, causes_of
from engine.delivery.reading.questions import MANY, Fetched
from engine.delivery.reading.values import key_text
from engine.model import Events, OriginalRecord, Record
from engine.routing.absence import deleting_events, follows_evictions, heard_events, takes_news
from engine.routing.databases import named, split
from engine.routing.events import is_news

_PREFIX, _SUFFIX, _UNFENCED_SUFFIX = b'{"records":[', b'],"deadline_ms":%d}', b'],"deadline_ms":%d,"unfenced":true}'
_FRAMING_BYTES = len(_PREFIX) + len(_UNFENCED_SUFFIX) + 20
_encode = msgspec.json.Encoder().encode
_IDS = tuple(str(index) for index in range(10_000))


@dataclass(slots=True)
class Built:
    """One payload and what became of every entry of the batch.

    ``sent[i]`` is the record with ``record_id`` ``str(i)``: an entry appears once for each of its records. ``settled``
    entries need no delivery (their key is gone, and the route does not list the cause); ``deferred`` ones did not fit;
    ``refused`` ones can never be delivered, with the reason; ``unread`` ones can't be read, and may be later. ``left``
    are events of a sent entry that did not fit.
    """

    payload: bytes = b""
    sent: list[Entry] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    deferred: list[Entry] = field(default_factory=list)
    refused: list[tuple[Entry, str]] = field(default_factory=list)
    unread: list[tuple[Entry, str]] = field(default_factory=list)
    left: list[tuple[Entry, Events]] = field(default_factory=list)

    def entries(self) -> list[Entry]:
        """Return what is sent, each entry once."""
        return list(dict(self.sent).items())


class _Batch(msgspec.Struct):
    records: list[msgspec.Raw]


class _Payload(msgspec.Struct, gc=False):
    """A whole payload, as `_PREFIX` and the suffixes have it in pieces."""

    records: list[Record]
    deadline_ms: int
    unfenced: bool | msgspec.UnsetType = msgspec.UNSET


_decode_batch = msgspec.json.Decoder(_Batch).decode


def records_in(payload: bytes, count: int) -> list[bytes | None]:
    """Return each record's JSON as it was sent in a payload; None for each if there is no payload."""
    if not payload:
        return [None] * count
    if not payload.startswith(_PREFIX):
        return [payload]
    return [bytes(record) for record in _decode_batch(payload).records]


class PayloadBuilder:
    """Makes payloads for one route; ``payload_bytes_max`` is never exceeded.

    ``database`` is that of all keys, None if each key names its own.
    """

    def __init__(self, route: RouteSettings, database: int | None, payload_bytes_max: int) -> None:
        self.deletes = deleting_events(route.events)
        """The events that by themselves make a missing key a delete; none if the route wants no deletes."""
        self._follows_evictions = follows_evictions(route.events)
        self._takes_news = takes_news(route.events)
        self._is_original = route.payload == "original"
        self._records_max = 1 if self._is_original else route.batch_size
        self._events = None if route.coalesce else set(heard_events(route.events, include_expiry=route.include_expiry))
        self._include_expiry = route.include_expiry
        self._database = database
        self._payload_bytes_max = payload_bytes_max
        self._parents = UNTRACED

    def build(
        self,
        entries: Sequence[Entry],
        fetched: Sequence[Fetched],
        deadline_ms: int = 0,
        parents: Parents = UNTRACED,
        *,
        is_unfenced: bool = False,
    ) -> Built:
        """Return the payload with as many entries as fit, in order.

        ``deadline_ms`` (Unix time) is when the function has to stop writing. An ``is_unfenced`` batch says that the
        engine counts on the function to keep older values out. Records of traced keys name their
        ``parents``.
        """
        assert len(entries) == len(fetched)
        self._parents = parents
        suffix = (_UNFENCED_SUFFIX if is_unfenced else _SUFFIX) % deadline_ms
        if len(entries) >= MANY:
            payload = self._at_once(entries, fetched, deadline_ms, len(suffix), is_unfenced=is_unfenced)
            if payload:
                return Built(payload, list(entries))
        built, parts = self._each(entries, fetched)
        if parts:
            built.payload = parts[0] if self._is_original else _PREFIX + b",".join(parts) + suffix
        return built

    def _each(self, entries: Sequence[Entry], fetched: Sequence[Fetched]) -> tuple[Built, list[bytes]]:
        """Return what becomes of each entry, and the records of those that are sent, one by one."""
        built = Built()
        parts: list[bytes] = []
        room = self._payload_bytes_max - _FRAMING_BYTES
        for index, (entry, value) in enumerate(zip(entries, fetched, strict=True)):
            if value.error:
                found = built.unread if value.passes else built.refused
                found.append((entry, f"cannot be read: {value.error}"))
                continue
            if value.body is None and not self._is_delete(entry[1].event, value):
                built.settled.append(entry)
                continue
            if len(parts) >= self._records_max:
                built.deferred.extend(entries[index:])
                break
            cause = entry[1]
            if cause.events:
                room, is_full = self._add_events(built, parts, entry, value, room)
            else:
                part = self._record(_IDS[len(parts)], entry, value, cause.event, cause.captured_ms)
                is_full = len(part) > room
                if not is_full:
                    room -= len(part) + 1
                    parts.append(part)
                    built.sent.append(entry)
                elif not parts and self._is_too_large(part):
                    built.refused.append((entry, self._too_large(len(part))))
                    continue
            if is_full:
                is_begun = bool(built.left)
                built.deferred.extend(entries[index + is_begun :])
                break
        return built, parts

    def _at_once(
        self,
        entries: Sequence[Entry],
        fetched: Sequence[Fetched],
        deadline_ms: int,
        suffix_bytes: int,
        *,
        is_unfenced: bool,
    ) -> bytes:
        """Return a payload with a record for each entry, made in one go; b"" if an entry needs individual treatment.

        It has the same bytes as one that is put together record by record, and the same limits.
        """
        if self._is_original or not self._are_plain(entries, fetched):
            return b""
        databases: Iterable[int]
        try:
            if self._database is None:
                pairs = [split(key) for key, _ in entries]
                databases, names = [number for number, _ in pairs], [name.decode() for _, name in pairs]
            else:
                databases, names = repeat(self._database), [key.decode() for key, _ in entries]
        except UnicodeDecodeError:
            return b""
        records = [
            Record(
                record_id, name, name, value.body, cause.event, value.type, database, value.version, cause.captured_ms
            )
            for record_id, name, database, (_, cause), value in zip(
                _IDS, names, databases, entries, fetched, strict=False
            )
        ]
        for index in self._parents.at:
            records[index].traceparent = self._parents.of[entries[index][0]]
        payload = _encode(_Payload(records, deadline_ms, is_unfenced or msgspec.UNSET))
        room = self._payload_bytes_max - _FRAMING_BYTES
        return payload if len(payload) - len(_PREFIX) - suffix_bytes <= room else b""

    def _are_plain(self, entries: Sequence[Entry], fetched: Sequence[Fetched]) -> bool:
        """Tell whether each entry has a text as its value, and one ordinary record."""
        if len(entries) > self._records_max or any(cause.events for cause, _ in causes_of(entries)):
            return False
        size = 0
        for value in fetched:
            if value.body is None or value.error or value.body_encoding or value.expires_at_ms:
                return False
            size += len(value.body)
        return size <= self._payload_bytes_max

    @property
    def explained(self) -> frozenset[str] | None:
        """Return the events after which the reason for a key's absence is clear; None if that never matters."""
        return self.deletes if self.deletes and not self._follows_evictions else None

    def _is_delete(self, event: str, value: Fetched) -> bool:
        """Tell whether a key that is gone is a delete: it was removed, or evictions are followed too."""
        if not self.deletes:
            return False
        return self._follows_evictions or event in self.deletes or value.is_taken_away

    def _add_events(
        self, built: Built, parts: list[bytes], entry: Entry, value: Fetched, room: int
    ) -> tuple[int, bool]:
        """Add a record for each event of a key; return the room that is left, and whether some had none.

        Those are left for the next payload; if not even one event fits alone, the entry is refused.
        """
        key, cause = entry
        events = self._events_of(cause)
        taken = 0
        for event, captured_ms in events:
            if len(parts) >= self._records_max:
                break
            part = self._record(_IDS[len(parts)], entry, value, event, captured_ms, taken)
            if len(part) > room:
                if not parts and self._is_too_large(part):
                    built.refused.append((entry, self._too_large(len(part))))
                    return room, False
                break
            room -= len(part) + 1
            parts.append(part)
            built.sent.append(entry)
            taken += 1
        if 0 < taken < len(events):
            built.left.append((entry, events[taken:]))
            # If it fails, it is sent again with only these: the others are held behind it.
            built.sent[-taken:] = [(key, cause.followed(cause.event, events[:taken]))] * taken
        return room, taken < len(events)

    def _events_of(self, cause: Cause) -> Events:
        """Return what a key's records are about: its events that the route wants, or the newest for all."""
        wanted = [one for one in cause.events if self._events and (one[0] in self._events or self._is_news(one[0]))]
        return tuple(wanted) or ((cause.event, cause.captured_ms),)

    def _is_news(self, event: str) -> bool:
        return self._takes_news and is_news(event)

    def _is_too_large(self, part: bytes) -> bool:
        return len(part) > self._payload_bytes_max - _FRAMING_BYTES

    def _too_large(self, size: int) -> str:
        limit = self._payload_bytes_max
        return f"a record of {size} bytes does not fit into delivery.payload_bytes_max = {limit}"

    def _record(
        self, record_id: str, entry: Entry, value: Fetched, event: str, captured_ms: int, ordinal: int = 0
    ) -> bytes:
        database, key = named(self._database, entry[0])
        text, encoding = key_text(key)
        record: Record | OriginalRecord
        if self._is_original:
            record = OriginalRecord(text, text, value.body)
        else:
            record = Record(
                record_id,
                text,
                text,
                value.body,
                event,
                value.type,
                database,
                value.version,
                captured_ms,
                ordinal=ordinal,
            )
            if value.expires_at_ms and self._include_expiry:
                record.expires_at_ms = value.expires_at_ms
            if entry[0] in self._parents.of:
                record.traceparent = self._parents.of[entry[0]]
        if encoding:
            record.id_encoding = encoding
        if value.body_encoding:
            record.body_encoding = value.body_encoding
        return _encode(record)
