"""What an audit concludes, with both sides played by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from engine.audit.compare import RouteAudit
from engine.audit.extras import spared_keys
from engine.audit.options import AuditOptions
from engine.audit.pace import Pace
from engine.audit.verdict import Judge, Kind, RouteReport, is_absence_known, kinds_of
from engine.config import RouteSettings
from engine.delivery.reading.questions import Fetched
from engine.destination.base import Item
from engine.marks.marker import Mark
from engine.redis.eviction import may_evict
from lambdas.contract import Record


class Table:
    """A destination in memory: key → body, or a whole item."""

    def __init__(self, **items: str | Item) -> None:
        self.items: dict[bytes, str | Item] = {key.encode(): item for key, item in items.items()}
        self.gets = 0
        self.on_get: Callable[[int], None] = lambda number: None

    def item(self, key: bytes) -> Item:
        item = self.items[key]
        return item if isinstance(item, Item) else Item(key, {"body": item})

    def scan(self, segment: int, segments: int) -> Iterator[list[Item | None]]:
        keys = sorted(self.items)[segment::segments]
        yield [self.item(key) for key in keys]
        yield [None] if segment == 0 else []

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Item]:
        self.gets += 1
        self.on_get(self.gets)
        assert len(keys) <= 100
        return {key: self.item(key) for key in keys if key in self.items}

    def holds(self, item: Item, record: Record) -> bool:
        return bool(item.content["body"] == record.body)

    def refusal(self, record: Record) -> str:
        return "too large" if len(record.body or "") > 100 else ""


class Redis:
    """A server in memory: key → (type, body)."""

    def __init__(self, **values: str) -> None:
        self.values = {key.encode(): ("hash", body) for key, body in values.items()}
        self.version = 1_000
        self.marks: list[tuple[bytes, str]] = []
        self.listeners = 1
        self.scanned_types: list[str] = []

    def count(self) -> int:
        return len(self.values)

    def scan(self, type_name: str = "") -> Iterator[list[bytes]]:
        self.scanned_types.append(type_name)
        keys = [key for key, (kind, _) in self.values.items() if type_name in ("", kind)]
        yield keys[:3]
        yield keys[2:]

    def read(self, keys: Sequence[bytes], event: str) -> Iterator[list[Fetched]]:
        self.version += 1
        for start in range(0, len(keys), 250):
            yield [self._value(key) for key in keys[start : start + 250]]

    def _value(self, key: bytes) -> Fetched:
        kind, body = self.values.get(key, ("none", None))
        if body == "NOPERM":
            return Fetched(key, kind, None, "", self.version, error=body)
        return Fetched(key, kind, body, "", self.version)

    def place_of(self, key: bytes) -> str:
        return ""

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self.values]

    def mark(self, marks: Sequence[Mark], pause: Callable[[int], None]) -> list[bool]:
        self.marks += marks
        return [bool(self.listeners)] * len(marks)


def audit(
    server: Redis,
    table: Table,
    route: Mapping[str, Any] | None = None,
    *,
    is_spared: Callable[[bytes], bool] = lambda key: False,
    **options: Any,
) -> RouteReport:
    settings = RouteSettings("r", "f", destination="dynamodb://carts", **(route or {}))
    given = AuditOptions(**{"keys_per_s_max": 1_000_000, "settle_ms": 0, "workers": 2, **options})
    return RouteAudit(
        settings,
        server,  # type: ignore[arg-type]
        table,
        given,
        server,  # type: ignore[arg-type]
        database=0,
        mapping_prefix="__meta_record__",
        is_absence_known=is_absence_known(settings, False),
        is_spared=is_spared,
        sleep=lambda seconds: None,
    ).run()


def found(report: RouteReport) -> dict[str, list[bytes]]:
    return {kind.value: finding.examples for kind, finding in report.findings.items() if finding.count}


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        (["hset"], {"hash"}),
        (["hdel", "del", "expired"], {"hash"}),
        (["set", "rpush", "xadd"], {"string", "list", "stream"}),
        (["*"], {"string", "list", "set", "hash", "zset", "stream", "json"}),
        (["json.set"], {"json"}),
        (["bf.add"], set()),
        (["expire", "rename_to", "restore", "copy_to"], set()),
        (["del", "evicted"], set()),
    ],
)
def test_types_that_a_route_must_have_delivered(events: list[str], kinds: set[str]) -> None:
    """A type is expected in the destination where the route hears of that type's own events."""
    assert kinds_of(events) == kinds


@pytest.mark.parametrize(
    ("events", "evicts", "known"),
    [
        (["*", "del", "expired"], False, True),
        (["*", "del", "expired"], True, False),
        (["*", "del", "expired", "evicted"], True, True),
        (["*", "del"], False, True),
        (["changes"], False, True),
        (["changes"], True, False),
        (["*"], False, False),
    ],
)
def test_when_absence_is_known(events: list[str], evicts: bool, known: bool) -> None:
    """An item may be said to be one too many only where every way to go is routed."""
    route = RouteSettings("r", "f", events=tuple(events))
    assert is_absence_known(route, evicts) is known


@pytest.mark.parametrize(
    ("info", "evicts"),
    [
        (b"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nevicted_keys:0\r\n", False),
        (b"maxmemory:100\r\nmaxmemory_policy:noeviction\r\nevicted_keys:0\r\n", False),
        (b"maxmemory:100\r\nmaxmemory_policy:noeviction\r\nevicted_keys:3\r\n", True),
        (b"maxmemory:100\r\nmaxmemory_policy:volatile-lru\r\nevicted_keys:0\r\n", True),
        (b"maxmemory:0\r\nmaxmemory_policy:noeviction\r\nevicted_keys:0\r\nrole:slave\r\n", True),
        (b"total_system_memory:1\r\n", True),
        (b"", True),
    ],
)
def test_what_a_server_may_evict(info: bytes, evicts: bool) -> None:
    """A server evicts that may, that did, that does not tell, or whose primary may."""
    assert may_evict([info]) is evicts


@pytest.mark.parametrize(
    ("value", "item", "kind"),
    [
        (Fetched(b"k", "hash", "v", "", 9), Item(b"k", {"body": "v"}), None),
        (Fetched(b"k", "hash", "v", "", 9), None, Kind.MISSING),
        (Fetched(b"k", "hash", "v", "", 9), Item(b"k", {}, is_absent=True, version=8), Kind.MISSING),
        (Fetched(b"k", "hash", "v", "", 9), Item(b"k", {"body": "u"}), Kind.DIFFERENT),
        (Fetched(b"k", "hash", "v", "", 9), Item(b"k", {"body": "u"}, version=8), Kind.STALE),
        (Fetched(b"k", "hash", "v", "", 9), Item(b"k", {"body": "u"}, version=9), Kind.DIFFERENT),
        (Fetched(b"k", "hash", "v" * 101, "", 9), None, Kind.UNSTORABLE),
        (Fetched(b"k", "hash", "v" * 101, "", 9), Item(b"k", {"body": "u"}), Kind.UNSTORABLE),
        (Fetched(b"k", "hash", None, "", 9, error="NOPERM"), None, Kind.UNREADABLE),
        (Fetched(b"k", "none", None, "", 9, error="too large"), None, Kind.UNREADABLE),
        (Fetched(b"k", "unknown", None, "", 9, error="NOPERM"), None, Kind.UNREADABLE),
        (Fetched(b"k", "bloom", None, "", 9, error="no canonical body"), None, None),
        (Fetched(b"k", "string", "v", "", 9), None, None),
        (Fetched(b"k", "none", None, "", 9), None, None),
        (Fetched(b"k", "none", None, "", 9), Item(b"k", {"body": "v"}), Kind.EXTRA),
        (Fetched(b"k", "none", None, "", 9), Item(b"k", {}, is_absent=True), None),
    ],
)
def test_verdicts(value: Fetched, item: Item | None, kind: Kind | None) -> None:
    """Each pair of a value and an item has its verdict, for a route that hears of hashes."""
    suspect = Judge(RouteSettings("r", "f"), 0, Table()).suspect(value, item)
    assert (suspect.kind if suspect else None) == kind


def test_all_kinds_in_one_walk() -> None:
    """What differs is found on both sides, each key once, though the scan named one twice."""
    server = Redis(a="same", b="new", c="1", d="2", e="NOPERM", __meta_record__x="mapping")
    report = audit(server, Table(a="same", b="old", gone="x", __meta_record__y="no key of this route"))
    assert found(report) == {"missing": [b"c", b"d"], "different": [b"b"], "extra": [b"gone"], "unreadable": [b"e"]}
    assert report.differences == 4
    assert (report.items, report.foreign) == (5, 2)
    assert server.scanned_types == ["hash"]
    assert not server.marks


def test_a_key_that_is_delivered_meanwhile_is_no_difference() -> None:
    """A key that is equal at the second look is forgotten."""
    table = Table(a="old")
    table.on_get = lambda number: table.items.update({b"a": "new"}) if number == 2 else None
    report = audit(Redis(a="new"), table)
    assert (report.differences, report.changing) == (0, 0)


def test_a_key_that_changes_meanwhile_is_no_difference() -> None:
    """A key whose value in Redis is another one at a later look is not judged, but counted."""
    server, table = Redis(a="1", b="1"), Table(a="0", b="0")
    table.on_get = lambda number: server.values.update({b"a": ("hash", str(number))}) if number == 2 else None
    # The change comes after this round's read, so it shows in the next.
    report = audit(server, table)
    assert found(report) == {"different": [b"b"]}
    assert report.changing == 1


def test_a_key_that_is_deleted_or_set_again_meanwhile_is_no_difference() -> None:
    """Keys that go, or come back, between two looks are left to the next audit."""
    server, table = Redis(a="1"), Table(back="1")

    def change(number: int) -> None:
        if number == 2:
            server.values.pop(b"a")
            server.values[b"back"] = ("hash", "1")

    table.on_get = change
    report = audit(server, table)
    assert report.differences == 0
    assert report.changing <= 1


def test_memory_is_bounded_and_findings_are_not() -> None:
    """Suspects are settled whenever there are too many; all are counted, the first are named."""
    server = Redis(**{f"k{n}": "v" for n in range(1_000)})
    table = Table(**{f"gone{n}": "v" for n in range(500)})
    report = audit(server, table, suspects_max=50)
    assert report.findings[Kind.MISSING].count == 1_000
    assert report.findings[Kind.EXTRA].count == 500
    assert len(report.findings[Kind.MISSING].examples) == 20


def test_repairs() -> None:
    """What a delivery can mend is marked, gone keys only where deletes are routed; nobody listening is counted."""
    server, table = Redis(a="new", b="1", large="v" * 101), Table(a="old", gone="x")
    report = audit(server, table, repair=True)
    assert sorted(server.marks) == [(b"a", "repair"), (b"b", "repair")]
    assert (report.repaired, report.unheard) == (2, 0)
    server.marks.clear()
    server.listeners = 0
    report = audit(server, table, {"events": ("*", "del", "expired")}, repair=True)
    assert sorted(server.marks) == [(b"a", "repair"), (b"b", "repair"), (b"gone", "repair_gone")]
    assert (report.repaired, report.unheard) == (0, 3)


def test_a_mark_spares_routes_that_would_keep_the_key() -> None:
    """A key is not marked as gone where another route would take the mark for a delete that it may not have lost."""
    sure = RouteSettings("sure", "f", keys=("*",), events=("changes", "evicted"))
    unsure = RouteSettings("unsure", "f", keys=("a:*",), events=("hset", "del"))
    keeps = RouteSettings("keeps", "f", keys=("b:*",), events=("*",))
    is_spared = spared_keys([sure, unsure, keeps], may_evict=True)
    assert (is_spared(b"a:1"), is_spared(b"b:1")) == (True, False)
    assert not spared_keys([sure, unsure], may_evict=False)(b"a:1")
    server, table = Redis(), Table(**{"a:1": "x", "b:1": "x"})
    audit(server, table, {"events": sure.events}, repair=True, is_spared=is_spared)
    assert server.marks == [(b"b:1", "repair_gone")]


def test_pace() -> None:
    """Keys are asked for at the pace that is set, and a stall is not caught up."""
    pace = Pace(1_000)
    assert pace.spend(500, 0) == 0
    assert pace.spend(500, 100) == 400
    assert pace.spend(500, 500) == 500
    assert pace.spend(1, 60_000) == 0
    assert pace.spend(1, 60_000) == 1
