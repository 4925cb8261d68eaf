"""Records → items: modes, numbers, times to live, and what DynamoDB has no place for."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.contract import Record, SetupError
from lambdas.dynamodb.items import ITEM_BYTES_MAX, ItemError, checked_size, item_of, table_key, versioned_item_of
from lambdas.dynamodb.settings import Settings, read_settings
from lambdas.dynamodb.values import number_of

ATTRIBUTES = Settings("table", "attributes", numbers=True)
NESTED = Settings("table", "nested", numbers=True)


def record(body: Any, kind: str = "hash", **more: Any) -> Record:
    return Record("0", "k", "k", body if isinstance(body, str) else json.dumps(body), type=kind, **more)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    ["0", "7", "-7", "10", "1.5", "-0.25", "0.00001", "100000", "9" * 38, "0." + "1" * 38, "-" + "1" * 20 + ".5"],
)
def test_what_reads_as_a_number_is_one(text: str) -> None:
    """A text that a Number gives back as it is becomes one."""
    assert number_of(text) == {"N": text}


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "-0", "+7", "007", "1.50", "1.", ".5", "1e5", "0x10", " 7", "7 ", "1_000", "٧", "NaN", "inf", "1,5"),
        *("9" * 39, "0." + "1" * 39, "1" * 30 + "." + "1" * 9, "0.0000001", "7\n"),
    ],
)
def test_what_a_number_would_not_give_back_stays_text(text: str) -> None:
    """Signs, zeros, exponents and digits that a Number would lose are kept, in a string."""
    assert number_of(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str) | st.integers().map(str) | st.text())
def test_no_number_changes_its_text(text: str) -> None:
    """Whatever becomes a Number is, written without an exponent, the text that it was, of 38 digits at most."""
    if number_of(text):
        assert f"{Decimal(text):f}" == text
        assert len(Decimal(text).as_tuple().digits) <= 38


def test_numbers_are_detected_only_where_asked_for() -> None:
    """Without the setting every field is a string."""
    body = {"n": "7", "s": "007"}
    assert item_of("k", record(body), ATTRIBUTES) == {"id": {"S": "k"}, "n": {"N": "7"}, "s": {"S": "007"}}
    assert item_of("k", record(body), Settings("table", "attributes"))["n"] == {"S": "7"}


def test_a_number_makes_no_tombstone_and_no_time_to_live() -> None:
    """Fields with the names of the function's own attributes get another, or DynamoDB would remove the item."""
    body = {"deleted_at_ms": "5", "expires_at": "1", "version": "2", "id": "3", "": "4"}
    item = item_of("k", record(body), ATTRIBUTES)
    assert item == {"id": {"S": "k"}} | {f"field:{name}": {"N": value} for name, value in body.items()}


def test_names_that_dynamodb_reserves_are_names_like_all() -> None:
    """Only expressions know reserved words, and no expression names a field."""
    item = item_of("k", record({"NAME": "a", "size": "b", "#n": "c", "a.b": "d"}), ATTRIBUTES)
    assert item.keys() == {"id", "NAME", "size", "#n", "a.b"}


def test_a_nested_body() -> None:
    """A hash is a map of its fields, other types are what their JSON is."""
    assert item_of("k", record({"n": "7", "s": "x", "": "y"}), NESTED) == {
        "id": {"S": "k"},
        "obj_name": {"S": "k"},
        "body": {"M": {"n": {"N": "7"}, "s": {"S": "x"}, "field:": {"S": "y"}}},
    }
    body = item_of("k", record('{"a":[1,1.5,1.50,-0,1e3,12345678901234567890,null,true,"7"]}', "json"), NESTED)["body"]
    kept = [{"N": "1"}, {"N": "1.5"}, {"S": "1.50"}, {"S": "-0"}, {"S": "1e3"}, {"N": "12345678901234567890"}]
    assert body == {"M": {"a": {"L": [*kept, {"NULL": True}, {"BOOL": True}, {"S": "7"}]}}}
    assert item_of("k", record(["7", "x"], "list"), NESTED)["body"] == {"L": [{"S": "7"}, {"S": "x"}]}
    assert item_of("k", record('"7"', "string"), NESTED)["body"] == {"S": "7"}
    assert item_of("k", record([["m", 1.5], ["n", "inf"]], "zset"), NESTED)["body"] == {
        "L": [{"L": [{"S": "m"}, {"N": "1.5"}]}, {"L": [{"S": "n"}, {"S": "inf"}]}]
    }


def test_a_nested_body_that_is_not_utf8() -> None:
    """What is not UTF-8 is binary; ids of streams and scores are never base64."""
    value = {b64(b"f"): b64(b"\xff"), b64(b"\xfe"): b64(b"7")}
    body = item_of("k", record(value, body_encoding="base64"), NESTED)["body"]
    assert body == {"M": {"f": {"B": b64(b"\xff")}, "base64:/g==": {"N": "7"}}}
    stream = [["1-0", [[b64(b"f"), b64(b"\xff")]]]]
    body = item_of("k", record(stream, "stream", body_encoding="base64"), NESTED)["body"]
    assert body == {"L": [{"L": [{"S": "1-0"}, {"L": [{"L": [{"S": "f"}, {"B": b64(b"\xff")}]}]}]}]}
    body = item_of("k", record([[b64(b"\xff"), "-inf"]], "zset", body_encoding="base64"), NESTED)["body"]
    assert body == {"L": [{"L": [{"B": b64(b"\xff")}, {"S": "-inf"}]}]}


@pytest.mark.parametrize(
    ("settings", "one", "words"),
    [
        (NESTED, record("[" * 40 + "]" * 40, "json"), "deeper than"),
        (NESTED, record("[" * 100_000, "json"), "not JSON"),
        (NESTED, record("[1]"), "not an object"),
        (NESTED, record({"f": "~"}, body_encoding="base64"), "base64"),
        (NESTED, record("[7]", "stream"), "not a list of pairs"),
        (ATTRIBUTES, record({"f": 7}), "not a string"),
        (ATTRIBUTES, record({"f" * 65_536: "v"}), "65535 bytes"),
        (ATTRIBUTES, record({"é" * 32_768: "v"}), "65535 bytes"),
        (ATTRIBUTES, record('{"\\ud800": "v"}'), "not Unicode"),
        (ATTRIBUTES, record('{"f": "\\ud800"}'), "not Unicode"),
    ],
)
def test_what_has_no_place_is_told(settings: Settings, one: Record, words: str) -> None:
    """A body that can't be an item is an `ItemError`, which fails its record alone."""
    with pytest.raises(ItemError, match=words):
        checked_size(item_of("k", one, settings))


def test_a_key_that_is_not_unicode_is_told() -> None:
    """A lone surrogate, which JSON can carry and DynamoDB can't, fails its record alone."""
    with pytest.raises(ItemError, match="not Unicode"):
        table_key(Record("0", "\ud800", "k", "{}"))


@pytest.mark.parametrize("mode", ["body", "attributes", "nested"])
def test_the_largest_item(mode: str) -> None:
    """An item of 400 KB is taken, one of a byte more is not, as DynamoDB counts."""
    settings = Settings("table", mode)

    def item(size: int) -> Any:
        return item_of("k", record({"f": "x" * size}), settings)

    room = ITEM_BYTES_MAX - checked_size(item(0))
    assert checked_size(item(room)) == ITEM_BYTES_MAX
    with pytest.raises(ItemError, match="409600"):
        checked_size(item(room + 1))


def test_sizes_are_counted_as_dynamodb_does() -> None:
    """Strings by their UTF-8, numbers by half their digits, binary by its bytes, maps and lists with their framing."""
    item = {"é": {"S": "é"}, "n": {"N": "123"}, "b": {"B": b64(b"1234")}, "m": {"M": {"a": {"L": [{"NULL": True}]}}}}
    assert checked_size(item) == (2 + 2) + (1 + 3) + (1 + 4) + (1 + 3 + 1 + 1 + 3 + 1 + 1)


def test_a_key_that_expires_has_a_time_to_live() -> None:
    """In whole seconds, never before the key itself, in the attribute of the settings; none for a key that stays."""
    one = record("{}", expires_at_ms=1_763_890_000_001, version=5)
    assert item_of("k", one, Settings("table"))["expires_at"] == {"N": "1763890001"}
    assert item_of("k", one, Settings("table", ttl_attribute="ttl"))["ttl"] == {"N": "1763890001"}
    assert item_of("k", record("{}", expires_at_ms=1_763_890_000_000), NESTED)["expires_at"] == {"N": "1763890000"}
    assert "expires_at" not in item_of("k", record("{}"), Settings("table"))
    assert versioned_item_of("k", one, Settings("table"), 0)["expires_at"] == {"N": "1763890001"}


@pytest.mark.parametrize(
    "environ",
    [
        {"DYNAMO_TTL_ATTRIBUTE": "id"},
        {"DYNAMO_TTL_ATTRIBUTE": "body"},
        {"DYNAMO_TTL_ATTRIBUTE": "deleted_at_ms"},
        {"DYNAMO_TTL_ATTRIBUTE": ""},
        {"DYNAMO_TTL_ATTRIBUTE": "version", "DYNAMO_WRITE_MODE": "versioned"},
        {"DYNAMO_TTL_ATTRIBUTE": "type", "DYNAMO_EXTRA_ATTRIBUTES": "type"},
    ],
)
def test_two_things_of_one_name_are_told_at_the_cold_start(environ: dict[str, str]) -> None:
    """Settings that clash are one clear error, before anything is written."""
    with pytest.raises(SetupError, match="DYNAMO_TTL_ATTRIBUTE"):
        read_settings({"DYNAMO_TABLE": "table", **environ})


def test_numbers_are_on_or_off() -> None:
    """The setting takes these two words."""
    assert read_settings({"DYNAMO_TABLE": "table", "DYNAMO_NUMBERS": "on"}).numbers
    with pytest.raises(SetupError, match="off, on"):
        read_settings({"DYNAMO_TABLE": "table", "DYNAMO_NUMBERS": "yes"})
