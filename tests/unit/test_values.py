from __future__ import annotations

import base64
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery.reading.questions import KIND_OF_EVENT
from engine.delivery.reading.values import body_of, document_of, key_text
from engine.routing.events import EVENTS_BY_CLASS


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("hash", {"b": "2", "a": "1"}, '{"a":"1","b":"2"}'),
        ("string", "text", '"text"'),
        ("string", "", '""'),
        ("list", ["b", "a"], '["b","a"]'),
        ("set", {"b", "a"}, '["a","b"]'),
        ("zset", [["a", 1.0], ["b", 2.5]], '[["a",1],["b",2.5]]'),
        ("zset", [["a", float("inf")], ["b", float("-inf")]], '[["a","inf"],["b","-inf"]]'),
        ("zset", [["a", -0.5], ["b", 1e300], ["c", 2.0**53]], '[["a",-0.5],["b",1e+300],["c",9007199254740992.0]]'),
        ("zset", [["a", float("nan")]], '[["a","nan"]]'),
        ("stream", [["1-1", ["f", "v", "f", "w"]]], '[["1-1",[["f","v"],["f","w"]]]]'),
        ("stream", [["1-1", None]], '[["1-1",[]]]'),
    ],
)
def test_each_type_has_one_canonical_text(kind: str, value: object, text: str) -> None:
    """The same value gives the same text, whatever order the server answers in."""
    assert body_of(kind, value) == (text, "")


@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=5))
def test_a_hash_of_any_bytes_comes_out_as_it_went_in(fields: dict[bytes, bytes]) -> None:
    """UTF-8 is carried as it is, anything else as base64 and marked: nothing is lost either way."""
    decoded = {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in fields.items()
    }
    body, encoding = body_of("hash", decoded)
    back = orjson.loads(body)
    if encoding:
        assert {base64.b64decode(name): base64.b64decode(value) for name, value in back.items()} == fields
    else:
        assert {name.encode(): value.encode() for name, value in back.items()} == fields


RAW = "\udcff"
MARKED = "/w=="


@pytest.mark.parametrize(
    ("kind", "value", "body"),
    [
        ("hash", {RAW: "b", "a": RAW}, {MARKED: "Yg==", "YQ==": MARKED}),
        ("string", RAW, MARKED),
        ("list", ["a", RAW], ["YQ==", MARKED]),
        ("set", [RAW, "a"], [MARKED, "YQ=="]),
        ("zset", [["a", 1.0], [RAW, 2.0]], [["YQ==", 1], [MARKED, 2]]),
        ("stream", [["1-1", ["a", RAW]]], [["1-1", [["YQ==", MARKED]]]]),
    ],
)
def test_one_string_that_is_no_text_marks_them_all(kind: str, value: object, body: object) -> None:
    """Where one string is not UTF-8, every string of the value is base64, ids and scores are not."""
    text, encoding = body_of(kind, value)
    assert (orjson.loads(text), encoding) == (body, "base64")


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=6), st.randoms())
def test_equal_hashes_and_sets_have_equal_texts(fields: dict[str, str], random: Random) -> None:
    """The order in which the server tells fields and members does not show."""
    items = list(fields.items())
    random.shuffle(items)
    assert body_of("hash", dict(items)) == body_of("hash", fields)
    assert body_of("set", [name for name, _ in items]) == body_of("set", list(fields))


@given(st.lists(st.floats(), max_size=5))
def test_scores_lose_nothing(scores: list[float]) -> None:
    """A score read back is the double that it was."""
    body, _ = body_of("zset", [["m", score] for score in scores])
    back = [float(score) for _, score in orjson.loads(body)]
    # Adding zero makes one zero of both: the sign of a zero says nothing.
    assert repr(back) == repr([score + 0.0 for score in scores])


def test_a_document_is_left_as_it_is() -> None:
    """The text of a JSON document is its body; one that is not UTF-8 is a base64 string."""
    assert document_of('{"b": 1.0, "a": "é"}') == ('{"b": 1.0, "a": "é"}', "")
    body, encoding = document_of('["\udcff"]')
    assert (base64.b64decode(orjson.loads(body)), encoding) == (b'["\xff"]', "base64")


@given(st.binary())
def test_a_key_of_any_bytes_comes_out_as_it_went_in(key: bytes) -> None:
    """A key's text and its encoding together are lossless."""
    text, encoding = key_text(key)
    assert (base64.b64decode(text) if encoding else text.encode()) == key


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("hset", "hash"), ("hdel", "hash"), ("set", "string"), ("setrange", "string"), ("incrby", "string"),
        ("sadd", "set"), ("spop", "set"), ("zadd", "zset"), ("lpush", "list"), ("rpush", "list"),
        ("xadd", "stream"), ("json.set", "json"), ("del", "?"), ("rename_to", "?"), ("restore", "?"),
        ("setbit", "string"), ("pfadd", "string"), ("sortstore", "list"), ("geosearchstore", "zset"),
        ("xgroup-create", "stream"), ("expired", "?"), ("evicted", "?"), ("new", "?"), ("strange", "?"), ("", "?"),
    ],
)  # fmt: skip
def test_events_imply_types(event: str, kind: str) -> None:
    """The likely type spares a question; a generic event implies none."""
    assert KIND_OF_EVENT[event] == kind


def test_asking_for_unknown_events_keeps_nothing() -> None:
    """Names of events come from outside: looking them up does not grow the table."""
    size = len(KIND_OF_EVENT)
    assert KIND_OF_EVENT["no such event"] == "?"
    own = 2  # of keys and records that entries of streams name
    assert len(KIND_OF_EVENT) == size == own + sum(len(EVENTS_BY_CLASS[letter]) for letter in "h$lszt")
