from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.capture import dirty as dirty_module
from engine.capture.dirty import LONG_KEY_BYTES, DirtyKeys, Intake, interests
from engine.config import RouteSettings
from engine.model import Change
from engine.routing.routes import RouteTable

PREFIX = b"__keyspace@0__:"
TABLE = RouteTable.build(
    [
        RouteSettings(name="carts", function="f", keys=("cart:*",), events=("hset", "del")),
        RouteSettings(name="all", function="g", events=("hset",)),
    ]
)
WANTED = interests(TABLE)

keys = st.sampled_from([b"", b"cart:1", b"cart:2", b"cart:\xff\x00", b"user:1", b"map:1", b"x" * 40])
events = st.sampled_from([b"hset", b"del", b"expire"])
turns = st.lists(st.tuples(st.lists(st.tuples(keys, events)), st.integers(0, 5)), max_size=12)


def new(invokers: int = 1, keys_max: int = 1_000, key_bytes_max: int = 1_000_000, mapping: bytes = b"") -> DirtyKeys:
    return DirtyKeys(
        prefix_bytes=len(PREFIX),
        invokers=invokers,
        keys_max=keys_max,
        key_bytes_max=key_bytes_max,
        mapping_prefix=mapping,
    )


def feed(dirty: DirtyKeys, changes: Iterable[tuple[bytes, bytes]], now_ms: int = 1) -> Intake:
    replies = iter([[b"pmessage", b"*", PREFIX + key, event] for key, event in changes])
    return dirty.take_in(lambda: next(replies, False), WANTED, now_ms)


def mask_of(key: bytes, event: bytes) -> int:
    return {b"hset": 2, b"del": 0, b"expire": 0}[event] | (event != b"expire" and key.startswith(b"cart:"))


@settings(deadline=None)
@given(turns, st.integers(1, 4), st.integers(1, 8))
def test_dirty_keys_are_a_bounded_ordered_dictionary(
    script: list[tuple[list[tuple[bytes, bytes]], int]], invokers: int, keys_max: int
) -> None:
    """Over any turns of taking in and removing: routes are OR'd, the newest event and the oldest time stay, the order
    is that of the first event, the bound holds, and each event is counted once.
    """
    dirty = new(invokers, keys_max, key_bytes_max=20, mapping=b"map:")
    model: dict[bytes, Change] = {}
    for now_ms, (changes, taken) in enumerate(script):
        intake = feed(dirty, changes, now_ms)
        expected = Intake(read=len(changes))
        for key, event in changes:
            mask = mask_of(key, event)
            if key.startswith(b"map:"):
                expected.mappings += 1
                continue
            if not mask:
                continue
            expected.routed += 1
            if key in model:
                known = model[key]
                model[key] = Change(event.decode(), mask | known.routes, known.captured_ms)
                expected.coalesced += 1
            elif len(key) > 20:
                expected.too_long += 1
            elif len(model) >= keys_max:
                expected.dropped += 1
            else:
                model[key] = Change(event.decode(), mask, now_ms)
        assert intake == expected
        assert len(dirty) == len(model) <= keys_max
        for invoker in range(invokers):
            mine = [(key, change) for key, change in model.items() if crc32(key) % invokers == invoker]
            assert list(dirty.buckets[invoker].items()) == mine
            gone = [key for key, _ in mine[:taken]]
            dirty.remove(invoker, gone)
            for key in gone:
                del model[key]


def test_keys_that_changed_alike_share_what_is_known_of_them() -> None:
    """Keys that a read brings with the same events, in whatever order, have one object between them."""
    dirty = new()
    feed(dirty, [(b"%d" % number, event) for number in range(100) for event in (b"hset", b"del")], 1)
    feed(dirty, [(b"cart:%d" % number, event) for number in range(100) for event in (b"hset", b"del")], 2)
    feed(dirty, [(b"cart:%d" % number, b"hset") for number in range(50)], 3)
    bucket = dirty.buckets[0]
    assert len(set(map(id, bucket.values()))) == 3
    assert bucket[b"0"] == Change("hset", 2, 1)
    assert bucket[b"cart:99"] == Change("del", 3, 2)
    assert bucket[b"cart:0"] == Change("hset", 3, 2)


def test_what_is_no_event_is_handed_back() -> None:
    """Confirmations, pongs and errors are returned in order, and counted as nothing."""
    error = hiredis.ReplyError("NOPERM no")
    others = [[b"psubscribe", b"*", 1], [b"pong", b""], error]
    replies = iter([others[0], [b"pmessage", b"*", PREFIX + b"k", b"hset"], *others[1:]])
    intake = new().take_in(lambda: next(replies, False), WANTED, 1)
    assert intake.others == others
    assert intake.read == intake.routed == 1


def test_removal_stays_exact_over_many_small_steps() -> None:
    """Keys removed a few at a time leave the rest in order, also where the dictionary is rebuilt on the way."""
    dirty = new(keys_max=5_000)
    feed(dirty, [(b"%d" % number, b"hset") for number in range(1_000)])
    seen: list[bytes] = []
    while len(dirty):
        some = list(dirty.buckets[0])[:7]
        dirty.remove(0, some)
        seen += some
        if len(seen) == 700:
            feed(dirty, [(b"late", b"hset")])
    assert seen == [b"%d" % number for number in range(1_000)] + [b"late"]


def test_long_keys_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long keys take no more than their share of memory; what is taken away makes room again."""
    monkeypatch.setattr(dirty_module, "LONG_KEYS_BYTES_MAX", 4 * LONG_KEY_BYTES)
    dirty = new(invokers=2)
    long = [bytes([byte]) * (LONG_KEY_BYTES + 1) for byte in range(6)]
    assert feed(dirty, [(key, b"hset") for key in long]).dropped == 3
    assert feed(dirty, [(b"short", b"hset")]).dropped == 0
    for invoker in (0, 1):
        dirty.remove(invoker, [*dirty.buckets[invoker]][:1])
    assert feed(dirty, [(long[5], b"hset")]).dropped == 0
    for invoker in (0, 1):
        dirty.remove(invoker, [*dirty.buckets[invoker]])
    assert dirty.long_bytes == [0, 0]
