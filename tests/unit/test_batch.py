from __future__ import annotations

import hiredis
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import RouteSettings
from engine.delivery.lanes.batch import Built, PayloadBuilder
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Cause, Entry
from engine.delivery.reading.questions import TYPE, Fetched, interpret


def entry(key: bytes, event: str = "hset") -> Entry:
    return key, Cause(event, 1_000, Frame(0))


def value(key: bytes, body: str | None = '{"f":"v"}', **more: str) -> Fetched:
    kind = "none" if body is None else "hash"
    return Fetched(key, kind, body, more.get("encoding", ""), 7, error=more.get("error", ""))


def build(keys: list[bytes], bodies: list[str | None], *, limit: int = 6_000_000, **route: object) -> Built:
    builder = PayloadBuilder(RouteSettings("r", "f", **route), 3, limit)  # type: ignore[arg-type]
    return builder.build([entry(key) for key in keys], [value(k, b) for k, b in zip(keys, bodies, strict=True)])


def test_a_record_has_every_field_of_the_contract() -> None:
    """The payload is the documented one; nothing is marked for plain UTF-8."""
    built = build([b"cart:1"], ['{"f":"v"}'])
    assert orjson.loads(built.payload) == {
        "records": [
            {
                "record_id": "0",
                "id": "cart:1",
                "obj_name": "cart:1",
                "body": '{"f":"v"}',
                "event": "hset",
                "type": "hash",
                "db": 3,
                "version": 7,
                "captured_at_ms": 1_000,
            }
        ],
        "deadline_ms": 0,
    }


@given(
    sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=30),
    limit=st.integers(500, 5_000),
)
def test_no_payload_is_over_the_limit_and_no_entry_is_lost(sizes: list[int], limit: int) -> None:
    """Whatever the sizes, the payload fits, and each entry is sent, deferred or refused, exactly once, in order."""
    keys = [b"key:%d" % number for number in range(len(sizes))]
    built = build(keys, ['"' + "v" * size + '"' for size in sizes], limit=limit)
    assert len(built.payload) <= limit
    sent = [one[0] for one in built.sent]
    deferred = [one[0] for one in built.deferred]
    refused = [one[0] for one, _ in built.refused]
    assert sorted(sent + deferred + refused) == sorted(keys)
    assert sent + deferred == [key for key in keys if key not in refused]
    if built.payload:
        records = orjson.loads(built.payload)["records"]
        assert [record["id"].encode() for record in records] == sent
        assert [record["record_id"] for record in records] == [str(n) for n in range(len(sent))]
    assert sent or not deferred, "a batch that sends nothing and defers would spin"


def test_a_gone_key_is_settled_unless_its_delete_is_listed() -> None:
    """Without `del` in the route a gone key needs no delivery; with it, a record without a body."""
    assert [one[0] for one in build([b"gone"], [None]).settled] == [b"gone"]
    builder = PayloadBuilder(RouteSettings("r", "f", events=("hset", "del")), 0, 6_000_000)
    built = builder.build(
        [entry(b"gone", "del"), entry(b"expired", "hset")], [value(b"gone", None), value(b"expired", None)]
    )
    (record,) = orjson.loads(built.payload)["records"]
    assert (record["id"], record["body"], record["event"]) == ("gone", None, "del")
    assert [one[0] for one in built.settled] == [b"expired"]


def test_what_is_not_utf8_is_marked() -> None:
    """Keys and bodies in base64 say so, in both payloads."""
    builder = PayloadBuilder(RouteSettings("r", "f"), 0, 6_000_000)
    one = [entry(b"\xff")], [value(b"\xff", "{}", encoding="base64")]
    (record,) = orjson.loads(builder.build(*one).payload)["records"]
    assert (record["id"], record["id_encoding"], record["body_encoding"]) == ("/w==", "base64", "base64")
    original = PayloadBuilder(RouteSettings("r", "f", payload="original"), 0, 6_000_000).build(*one)
    assert orjson.loads(original.payload)["id_encoding"] == "base64"


def test_the_originals_payload_is_one_record() -> None:
    """One record an invocation, in the original's shape; the others wait."""
    built = build([b"a", b"b"], ['{"f":"v"}', "{}"], payload="original")
    assert orjson.loads(built.payload) == {"id": "a", "obj_name": "a", "body": '{"f":"v"}'}
    assert [one[0] for one in built.deferred] == [b"b"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unreadable_key_is_refused_alone(place: int) -> None:
    """A key that the server will not give is refused with the reason, its neighbours are sent."""
    keys = [b"a", b"b", b"c"]
    values = [value(key) for key in keys]
    values[place] = value(keys[place], None, error="no canonical body")
    built = PayloadBuilder(RouteSettings("r", "f"), 0, 6_000_000).build([entry(key) for key in keys], values)
    assert len(built.sent) == 2
    ((refused, reason),) = built.refused
    assert refused[0] == keys[place]
    assert "no canonical body" in reason


def test_what_keeps_a_key_from_being_read_may_pass() -> None:
    """A key that the server will not give now is not given up: it is told apart from one that can never be read."""
    shut = interpret(b"shut", "hash", hiredis.ReplyError("NOPERM No permissions to access a key"), 7)
    filter_ = interpret(b"filter", TYPE, "MBbloom--", 7)
    assert isinstance(shut, Fetched) and isinstance(filter_, Fetched)
    built = PayloadBuilder(RouteSettings("r", "f"), 0, 6_000_000).build(
        [entry(b"shut"), entry(b"filter")], [shut, filter_]
    )
    assert [(one[0], "NOPERM" in reason) for one, reason in built.unread] == [(b"shut", True)]
    assert [one[0] for one, _ in built.refused] == [b"filter"]


def test_expiry_is_told_where_the_route_asks() -> None:
    """A key that expires says when, in routes with `include_expiry`; else the field is absent."""
    stays, expires = value(b"a"), value(b"b")
    expires.expires_at_ms = 1_763_890_000_123
    for asks in (False, True):
        builder = PayloadBuilder(RouteSettings("r", "f", include_expiry=asks), 0, 6_000_000)
        built = builder.build([entry(b"a"), entry(b"b")], [stays, expires])
        first, second = orjson.loads(built.payload)["records"]
        assert "expires_at_ms" not in first
        assert second.get("expires_at_ms") == (1_763_890_000_123 if asks else None)
