from __future__ import annotations

import itertools
import re
from ast import literal_eval

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.config import RouteSettings
from engine.model import ROUTE_SLOTS_MAX
from engine.routing.absence import deleting_events, heard_events, wants_absence
from engine.routing.events import (
    EVENTS_BY_CLASS,
    FLAGS_IN_A,
    WRITE_EVENTS,
    class_of,
    expand_events,
    merge_flags,
    notification_flags,
)
from engine.routing.glob import escape, has_open_class, matcher, parse, takes_everything
from engine.routing.routes import RouteTable, wants

PIECES = [b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"c", b"z", b":", b"\n", b"\x00", b"\x80", b"\xff"]
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join)
ALPHABET = [b"a", b"b", b"c", b"z", b":", b"\n", b"]", b"-", b"\\", b"^", b"[", b"\x80", b"\xff"]
KEYS = st.lists(st.sampled_from(ALPHABET), max_size=7).map(b"".join)
SHORT_KEYS = [b"".join(key) for size in range(3) for key in itertools.product(ALPHABET, repeat=size)]
CLASSES = st.builds(
    lambda negated, inside, closed: b"[" + negated + b"".join(inside) + closed,
    st.sampled_from([b"", b"^"]),
    st.lists(st.sampled_from([*PIECES[2:10], b"a-c", b"c-a", b"\\]", b"\\a-z"]), max_size=4),
    st.sampled_from([b"]", b"]", b""]),
)
RICH_PATTERNS = st.lists(st.one_of(CLASSES, st.sampled_from(PIECES), PATTERNS), max_size=4).map(b"".join)

FLAGS = st.text(st.sampled_from("AKEg$lshzxetdmnocSTIV"), max_size=12)
EVENTS = sorted(event for events in EVENTS_BY_CLASS.values() for event in events)
NAMES = st.lists(st.sampled_from([f"r{n}" for n in range(90)]), unique=True, max_size=ROUTE_SLOTS_MAX)


def redis_matches(pattern: bytes, key: bytes) -> bool:
    """Match as `stringmatchlen` does, one step after the other, bytes unsigned.

    Redis ends a pattern with a zero byte and may look at it; so does this. A key is only ever matched as the
    end of a channel, so that there is always something before it: `*` takes the empty key.
    """
    return _match(b"@" + pattern, b"@" + key)


def _match(pattern: bytes, text: bytes) -> bool:
    p, t = 0, 0
    while p < len(pattern) and t < len(text):
        byte = pattern[p]
        if byte == ord("*"):
            while pattern[p + 1 : p + 2] == b"*":
                p += 1
            if p + 1 == len(pattern):
                return True
            return any(_match(pattern[p + 1 :], text[start:]) for start in range(t, len(text)))
        if byte == ord("["):
            matched, p = _match_class(pattern, p + 1, text[t])
            if not matched:
                return False
        elif byte != ord("?"):
            if byte == ord("\\") and p + 1 < len(pattern):
                p += 1
            if pattern[p] != text[t]:
                return False
        t += 1
        p += 1
        if t == len(text):
            while pattern[p : p + 1] == b"*":
                p += 1
            break
    return p >= len(pattern) and t == len(text)


def _match_class(pattern: bytes, p: int, byte: int) -> tuple[bool, int]:
    negated = pattern[p : p + 1] == b"^"
    p += negated
    matched = False
    while True:
        left = len(pattern) - p
        if left >= 2 and pattern[p] == ord("\\"):
            p += 1
            matched |= pattern[p] == byte
        elif left and pattern[p] == ord("]"):
            break
        elif not left:
            p -= 1
            break
        elif left >= 3 and pattern[p + 1] == ord("-"):
            start, end = pattern[p], pattern[p + 2]
            if start > end:
                start, end = end, start
            p += 2
            matched |= start <= byte <= end
        else:
            matched |= pattern[p] == byte
        p += 1
    return matched != negated, p


@settings(max_examples=300)
@given(RICH_PATTERNS, KEYS)
def test_glob_is_redis_glob(pattern: bytes, key: bytes) -> None:
    """A pattern matches exactly the keys that Redis's own algorithm matches."""
    matches = matcher([pattern])
    for candidate in (key, *SHORT_KEYS):
        wanted = redis_matches(pattern, candidate)
        assert bool(matches(candidate)) == wanted, candidate
        assert wanted or not takes_everything(pattern)


@pytest.mark.parametrize(
    "pattern", [b"[a-", b"[a-]", b"[a-]z", b"[^", b"[", b"[]", b"[^]", b"[^^]", b"[\\", b"[a\\", b"\\"]
)
def test_unfinished_patterns(pattern: bytes) -> None:
    """A pattern that stops in the middle means what it means to Redis."""
    matches = matcher([pattern])
    assert [key for key in SHORT_KEYS if matches(key)] == [key for key in SHORT_KEYS if redis_matches(pattern, key)]


@given(RICH_PATTERNS.filter(lambda pattern: not pattern.endswith(b"\\")))
def test_a_class_without_its_end_is_found(pattern: bytes) -> None:
    """A bracket after it is then a part of the class, and not itself."""
    assert has_open_class(pattern) == (parse(pattern + b"]") != [*parse(pattern), *parse(b"]")])


@given(st.lists(RICH_PATTERNS, min_size=1, max_size=4), KEYS)
def test_patterns_are_alternatives(patterns: list[bytes], key: bytes) -> None:
    """Several patterns match what any one of them matches."""
    assert bool(matcher(patterns)(key)) == any(redis_matches(pattern, key) for pattern in patterns)


@given(st.lists(st.tuples(st.booleans(), KEYS), min_size=1, max_size=3), KEYS)
def test_cheap_shapes(shapes: list[tuple[bool, bytes]], key: bytes) -> None:
    """The shortcuts for whole keys, prefixes and suffixes match what the algorithm matches."""
    for start, end in ((b"", b""), (b"", b"*"), (b"*", b"")):
        patterns = [start + escape(text) + (end if star else b"") for star, text in shapes]
        assert bool(matcher(patterns)(key)) == any(redis_matches(pattern, key) for pattern in patterns)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_escape(text: bytes, other: bytes) -> None:
    """An escaped text matches itself and nothing else."""
    matches = matcher([escape(text)])
    assert matches(text)
    assert bool(matches(other)) == (text == other)


def test_many_stars_stay_linear() -> None:
    """A pattern with many stars does not search a long key again for each of them.

    Searched naively, this is some 10^19 steps: the test would never end.
    """
    assert not matcher([b"*a*a*a*b"])(b"a" * 200_000)
    assert matcher([b"*a*a*a*b"])(b"a" * 200_000 + b"b")


@given(FLAGS, FLAGS.map(lambda flags: flags.replace("A", "")))
def test_merged_flags(current: str, needed: str) -> None:
    """Merging takes no flag away, adds all that lack and no other, and is itself where nothing lacks."""

    def meaning(flags: str) -> set[str]:
        letters = set(flags) - {"A"}
        return letters | FLAGS_IN_A if "A" in flags else letters

    merged = merge_flags(current, needed)
    assert merged.startswith(current)
    assert meaning(merged) == meaning(current) | meaning(needed)
    assert merge_flags(merged, needed) == merged
    if meaning(needed) <= meaning(current):
        assert merged == current


@given(st.lists(st.sampled_from([*EVENTS, "*", "changes", "absence", "bf.add"]), max_size=6))
@example(["hexpired"])
@example(["*"])
def test_flags_of_events(events: list[str]) -> None:
    """The flags of events are K and the class of each, and no other; an expired field needs two, as Valkey 9 has it."""
    named = expand_events(events)
    letters = {class_of(event) for event in named} | ({"x"} if "hexpired" in named else set())
    flags = notification_flags(events)
    assert flags[0] == "K"
    assert list(flags[1:]) == sorted(letter for letter in letters if letter)


def test_every_write() -> None:
    """ "*" is writes of every type, and nothing that takes a key away or leaves its value as it was."""
    assert {"hset", "set", "rpush", "sadd", "zadd", "xadd", "json.set", "rename_to", "restore"} <= set(WRITE_EVENTS)
    assert not set(WRITE_EVENTS) & {
        "del", "expired", "evicted", "rename_from", "move_from", "expire", "persist", "hexpire", "hpersist",
        "xgroup-create", "new", "keymiss",
    }  # fmt: skip
    assert len(set(WRITE_EVENTS)) == len(WRITE_EVENTS)


def test_every_change() -> None:
    """ "changes" is "*", "absence" and what makes a key without writing to it; only evictions are left out."""
    assert set(expand_events(["changes"])) == {*WRITE_EVENTS, *expand_events(["absence"]), "xgroup-create"}
    assert set(expand_events(["absence"])) == {"del", "expired", "rename_from", "move_from"}


@pytest.mark.parametrize(
    ("listed", "heard"),
    [
        ("hset", {"hset"}),
        ("hset expired", {"hset", "expired", "del", "rename_from", "move_from"}),
        ("evicted", {"evicted", "expired", "del", "rename_from", "move_from"}),
        ("hexpired", {"hexpired", "hdel", "expired", "del", "rename_from", "move_from"}),
        ("spop incrbyfloat hincrbyfloat", {"spop", "srem", "incrbyfloat", "set", "hincrbyfloat", "hset"}),
        ("json.set del", {"json.set", "json.del", "expired", "del", "rename_from", "move_from"}),
        ("* absence", {*WRITE_EVENTS, "expired", "del", "rename_from", "move_from"}),
    ],
)
def test_events_are_heard_under_every_name(listed: str, heard: set[str]) -> None:
    """A replica says ``del`` of a key that expired, and the effect of a command; versions differ about the rest."""
    assert set(heard_events(listed.split())) == heard


def test_an_expiry_that_is_told_is_heard() -> None:
    """Where records say when a key expires, that is one of its "changes"."""
    more = set(heard_events(["changes"], include_expiry=True)) - set(heard_events(["changes"]))
    assert more == {"expire", "persist"}
    assert heard_events(["hset"], include_expiry=True) == ("hset",)


@pytest.mark.parametrize("listed", ["del", "expired", "evicted", "hexpired", "rename_from", "absence", "changes"])
def test_any_way_to_go_asks_for_all(listed: str) -> None:
    """Who lists one way for a key to go is told of each, but of evictions only by name; "*" lists none."""
    events = ("*", listed)
    assert wants_absence(events)
    assert {"del", "expired", "rename_from", "move_from", "json.del", "repair_gone"} <= deleting_events(events)
    assert ("evicted" in deleting_events(events)) == (listed == "evicted")
    assert not wants_absence(["*"])
    assert not deleting_events(["*", "hdel"])


@pytest.mark.parametrize("name", ["", ".", "HSET", "hmset", "foo", "*"])
def test_no_event(name: str) -> None:
    """A name that no server publishes has no class."""
    assert class_of(name) is None


def table(names: list[str], previous: RouteTable | None = None) -> RouteTable:
    return RouteTable.build([RouteSettings(name, "f") for name in names], previous)


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_slots_are_stable(generations: list[list[str]]) -> None:
    """Over reloads a name keeps its slot; a used slot is given to another name only when no other is left,
    and then the one that was retired first.
    """
    current: RouteTable | None = None
    for names in generations:
        before = {} if current is None else {route.name: slot for slot, route in current.routes.items()}
        retired = [] if current is None else [(slot, literal_eval(what)[0]) for slot, what in current.retired]
        new = table(names, current)
        assert new.version == (current.version + 1 if current else 1)
        slots = {route.name: slot for slot, route in new.routes.items()}
        assert set(slots) == set(names)
        assert len(set(slots.values())) == len(names)
        assert all(0 <= slot < ROUTE_SLOTS_MAX for slot in slots.values())
        for name, slot in before.items():
            if name in slots:
                assert slots[name] == slot
        home = {name: slot for slot, name in retired}
        for name in names:
            if name in home:
                assert slots[name] == home[name]
        history = [slot for slot, _ in retired] + [slot for name, slot in before.items() if name not in slots]
        fresh = set(range(ROUTE_SLOTS_MAX)) - set(history) - set(before.values())
        returned = {home[name] for name in names if name in home}
        reused = [slot for slot in history if slot in slots.values() and slot not in returned]
        if reused:
            assert fresh <= set(slots.values()), "a fresh slot was left"
            free = [slot for slot in history if slot not in returned]
            assert reused == free[: len(reused)], "not the first that was retired"
        current = new


def test_retired_slots_are_used_last() -> None:
    """When no slot was left unused, a new route gets the one that was retired first."""
    full = table([f"r{n}" for n in range(ROUTE_SLOTS_MAX)])
    without = table([f"r{n}" for n in range(ROUTE_SLOTS_MAX) if n not in {5, 7}], full)
    without = table([route.name for slot, route in without.routes.items() if slot != 2], without)
    assert [slot for slot, _ in without.retired] == [5, 7, 2]
    assert not without.recycled
    names = [route.name for route in without.routes.values()]
    assert table([*names, "new"], without).routes[5].name == "new"
    assert table([*names, "new"], without).recycled == 1 << 5
    assert table([*names, "new", "r5"], without).routes[7].name == "new"
    assert table(["all", "other"], full).retired[0][0] == 2


def test_a_slot_never_means_something_else() -> None:
    """Other keys or other events are another slot, so that marks on their way mean what they meant; the rest is not."""
    route = RouteSettings("carts", "f", keys=("cart:*",))
    first = RouteTable.build([route])
    for changed in ({"keys": ("cart:1*",)}, {"events": ("hset", "del")}):
        second = RouteTable.build([msgspec.structs.replace(route, **changed)], first)
        assert list(second.routes) == [1]
        assert list(RouteTable.build([route], second).routes) == [0]
    assert list(RouteTable.build([msgspec.structs.replace(route, function="g", batch_size=1)], first).routes) == [0]


@pytest.mark.parametrize(
    ("events", "event", "is_wanted"),
    [
        (("hset",), "hset", True),
        (("hset",), "expire", True),
        (("hset",), "del", True),
        (("hset", "del"), "repair_gone", True),
        (("del",), "del", True),
        (("del",), "repair_gone", True),
        (("del",), "hset", False),
        (("expired",), "del", True),
        (("expired",), "evicted", False),
        (("changes",), "vadd", True),
    ],
)
def test_a_change_may_stand_for_events_that_it_does_not_name(
    events: tuple[str, ...], event: str, is_wanted: bool
) -> None:
    """Who wants any event that leaves a key there may want a change, whatever the newest event was."""
    takes = wants(RouteSettings("r", "f", keys=("cart:*",), events=events))
    assert takes(b"cart:1", event) is is_wanted
    assert takes(b"user:1", event) is False


@given(NAMES, NAMES, st.lists(st.sampled_from([*EVENTS, "*"]), max_size=3), st.lists(st.text(), max_size=3))
def test_table_round_trip(first: list[str], second: list[str], events: list[str], keys: list[str]) -> None:
    """A table that went to another process routes as it did, and goes on giving out slots as it would have."""
    routes = [RouteSettings(name, "f", keys=tuple(keys), events=tuple(events)) for name in second]
    original = RouteTable.build(routes, table(first))
    copy = RouteTable.decode(original.encode())
    assert copy == original
    assert table(first, copy) == table(first, original)


@given(
    st.lists(
        st.tuples(
            st.lists(RICH_PATTERNS.filter(bytes.isascii), min_size=1, max_size=3),
            st.lists(st.sampled_from(["hset", "del", "set", "*"]), min_size=1, max_size=3),
        ),
        max_size=5,
    ),
    st.sampled_from(["hset", "del", "set", "zadd", "expired"]),
    KEYS,
)
def test_compiled_routes(rules: list[tuple[list[bytes], list[str]]], event: str, key: bytes) -> None:
    """The compiled table's mask names exactly the routes whose events and patterns fit."""
    routes = [
        RouteSettings(f"r{n}", "f", keys=tuple(p.decode() for p in patterns), events=tuple(events))
        for n, (patterns, events) in enumerate(rules)
    ]
    built = RouteTable.build(routes)
    wanted = 0
    for slot, route in built.routes.items():
        listens = event in heard_events(route.events)
        if listens and any(redis_matches(pattern.encode(), key) for pattern in route.keys):
            wanted |= 1 << slot
    compiled = built.compile()
    entry = compiled.get(event.encode())
    assert (entry.mask(key) if entry else 0) == wanted
    listening = {name for route in routes for name in heard_events(route.events)}
    assert set(compiled) == {name.encode() for name in listening}, "an event that nobody wants is absent"


def test_star_needs_no_test_of_the_key() -> None:
    """A route that takes every key costs the hot path no predicate."""
    compiled = RouteTable.build([RouteSettings("all", "f", keys=("x", "**"))]).compile()
    assert compiled[b"hset"].always == 1
    assert compiled[b"hset"].some == ()


def test_classes_are_disjoint() -> None:
    """Every known event has one class, and a name as servers write them."""
    assert len(EVENTS) == len(set(EVENTS))
    assert all(re.fullmatch(r"[a-z_.-]+", event) for event in EVENTS)
