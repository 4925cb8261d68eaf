from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery.fetch import type_of_event
from engine.delivery.values import body_of, key_text


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
        ("stream", [["1-1", ["f", "v", "f", "w"]]], '[["1-1",[["f","v"],["f","w"]]]]'),
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
    ],
)  # fmt: skip
def test_events_imply_types(event: str, kind: str) -> None:
    """The likely type spares a question; a generic event implies none."""
    assert type_of_event(event) == kind
