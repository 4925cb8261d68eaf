"""What an audit concludes from what it read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.config import RouteSettings
from engine.delivery.reading.questions import KIND_OF_EVENT, TYPE, Fetched
from engine.delivery.reading.values import key_text
from engine.destination.base import Destination, Item
from engine.routing.absence import follows_evictions, wants_absence
from engine.routing.databases import named
from engine.routing.events import expand_events
from lambdas.contract import Record

EXAMPLES_MAX = 20
"""Keys of each kind that a report names."""


class Kind(StrEnum):
    """How a key may differ."""

    MISSING = "missing"
    """In Redis, and not in the destination."""
    STALE = "stale"
    """The destination has another value, with a version that is older than what the audit read."""
    DIFFERENT = "different"
    """The destination has another value."""
    EXTRA = "extra"
    """In the destination, and not in Redis."""
    UNSTORABLE = "unstorable"
    """In Redis, and can never be in the destination: the key or the value is too large for it."""
    UNREADABLE = "unreadable"
    """In Redis, and cannot be read."""


REPAIRABLE = frozenset({Kind.MISSING, Kind.STALE, Kind.DIFFERENT})
"""Differences that another delivery of the key fixes."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A key that differed when it was last looked at; ``fingerprint`` is that of its value in Redis then."""

    kind: Kind
    fingerprint: int


@dataclass(slots=True)
class Finding:
    """How many keys differ in one way, and the first of them."""

    count: int = 0
    examples: list[bytes] = field(default_factory=list)

    def add(self, key: bytes) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(key)


@dataclass(slots=True)
class RouteReport:
    """What the audit of one route found.

    ``compared`` keys of Redis and ``items`` of the destination were looked at; ``skipped`` keys have a type that the
    route does not listen to; ``foreign`` items are not keys of this route. ``changing`` keys differed, but changed
    during the comparison, so nothing is concluded about them. ``unheard`` marks of a repair are not known to have
    reached an engine. ``held`` keys are gone, and a repair did not delete them: they are too many. ``refused`` keys are
    gone too, and stay in the destination because somebody refused their deletion: they are as they should be.
    """

    route: str
    destination: str
    is_extra_wrong: bool = False
    compared: int = 0
    skipped: int = 0
    items: int = 0
    foreign: int = 0
    changing: int = 0
    repaired: int = 0
    unheard: int = 0
    held: int = 0
    refused: int = 0
    took_ms: int = 0
    are_several: bool = False
    """Whether keys are known with their database."""
    findings: dict[Kind, Finding] = field(default_factory=lambda: {kind: Finding() for kind in Kind})

    @property
    def differences(self) -> int:
        """Return how many keys differ although they should not."""
        return sum(
            finding.count for kind, finding in self.findings.items() if kind is not Kind.EXTRA or self.is_extra_wrong
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        content: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "route",
                "destination",
                "differences",
                "compared",
                "skipped",
                "items",
                "foreign",
                "changing",
                "is_extra_wrong",
                "repaired",
                "unheard",
                "held",
                "refused",
                "took_ms",
            )
        }
        for kind, finding in self.findings.items():
            content[kind.value] = {"count": finding.count, "examples": [self._example(key) for key in finding.examples]}
        return content

    def _example(self, key: bytes) -> dict[str, str | int]:
        database, name = named(None if self.are_several else 0, key)
        text, encoding = key_text(name)
        example: dict[str, str | int] = {"id": text, "id_encoding": encoding} if encoding else {"id": text}
        return example | {"db": database} if self.are_several else example


def kinds_of(events: Iterable[str]) -> frozenset[str]:
    """Return the types that a key must have for its absence in the destination to be a loss.

    A route learns of a key only by events of the key's own type. An event that can leave a key of any type
    (``rename_to``, ``expire``) says nothing about keys to which it never happened.
    """
    kinds = {KIND_OF_EVENT[event] for event in expand_events(events)}
    return frozenset(kinds - {TYPE})


def is_absence_known(route: RouteSettings, may_evict: bool) -> bool:
    """Tell whether the route's destination must not hold what Redis does not: it listens to every kind of removal.

    What the cache forgets, the store keeps: without ``evicted`` among its events, a key that is gone may have been
    evicted, wherever the server evicts.
    """
    return wants_absence(route.events) and (follows_evictions(route.events) or not may_evict)


class Judge:
    """Compares values with items, for one route."""

    def __init__(self, route: RouteSettings, database: int | None, destination: Destination) -> None:
        """``database`` is that of all keys, None if each key names its own."""
        self.kinds = kinds_of(route.events)
        self._is_original = route.payload == "original"
        self._database = database
        self._destination = destination

    def suspect(self, value: Fetched, item: Item | None) -> Suspect | None:
        """Return how a key differs, None if it does not, or if that is no loss."""
        kind = self._kind(value, item if item is not None and not item.is_absent else None)
        return None if kind is None else Suspect(kind, fingerprint(value))

    def _kind(self, value: Fetched, item: Item | None) -> Kind | None:
        if value.type == "none" and not value.error:
            return None if item is None else Kind.EXTRA
        if value.type not in self.kinds and not (value.error and value.type in {"none", "unknown"}):
            return None
        if value.body is None:
            return Kind.UNREADABLE
        record = self.record(value)
        if item is not None and self._destination.holds(item, record):
            return None
        if self._destination.refusal(record):
            return Kind.UNSTORABLE
        if item is None:
            return Kind.MISSING
        return Kind.STALE if 0 < item.version < value.version else Kind.DIFFERENT

    def record(self, value: Fetched) -> Record:
        """Return what the function is given for this value."""
        database, name = named(self._database, value.key)
        text, encoding = key_text(name)
        return Record(
            record_id="",
            id=text,
            obj_name=text,
            body=value.body,
            # The original's payload has no type, and its function treats every value as a hash.
            type="hash" if self._is_original else value.type,
            db=database,
            id_encoding=encoding,
            body_encoding=value.body_encoding,
        )


def fingerprint(value: Fetched) -> int:
    """Return a number that almost certainly differs for another value."""
    return hash((value.type, value.body, value.body_encoding, value.error))


GONE = Suspect(Kind.EXTRA, fingerprint(Fetched(b"", "none", None, "", 0)))
"""A key that the destination holds and Redis does not."""
