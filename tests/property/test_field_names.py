"""Fields of a hash as DynamoDB's attributes: no two of them meet, whatever bytes their names are."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.delivery.reading.values import body_of
from lambdas.contract import Record, SetupError
from lambdas.dynamodb.calls import encode, item_text
from lambdas.dynamodb.items import ItemError, checked_size, item_of
from lambdas.dynamodb.settings import Settings, read_settings
from lambdas.dynamodb.values import number_of, size_of


def literal(prefix: str, raw: bytes) -> bytes:
    return prefix.encode() + base64.b64encode(raw)


AWKWARD = [
    b"\xff",
    literal("base64:", b"\xff"),
    literal("field:base64:", b"\xff"),
    b"",
    b"field:",
    b"field:field:",
    b"id",
    b"field:id",
    b"base64:",
    b"expires_at",
    b"field:expires_at",
    b"7",
]
FIELDS = st.dictionaries(st.sampled_from(AWKWARD) | st.binary(max_size=4), st.binary(max_size=3), max_size=12)


def record_of(fields: dict[bytes, bytes]) -> Record:
    """Return the record that the engine makes of a hash."""
    escaped = {
        name.decode("utf-8", "surrogateescape"): one.decode("utf-8", "surrogateescape") for name, one in fields.items()
    }
    body, encoding = body_of("hash", escaped)
    return Record("0", "k", "k", body, type="hash", version=1, body_encoding=encoding)


@pytest.mark.parametrize("mode", ["attributes", "nested"])
@given(fields=FIELDS)
@example(fields={b"\xff": b"1", literal("base64:", b"\xff"): b"2", literal("field:base64:", b"\xff"): b"3"})
def test_each_field_has_its_own_attribute(mode: str, fields: dict[bytes, bytes]) -> None:
    """As many attributes as fields, each with its field's value, also where a name is another one's base64."""
    item = item_of("k", record_of(fields), Settings("table", mode))
    stored = item["body"]["M"] if mode == "nested" else {name: one for name, one in item.items() if name != "id"}
    assert sorted(map(raw_of, stored.values())) == sorted(fields.values())
    assert {field_of(name): raw_of(one) for name, one in stored.items()} == fields


def raw_of(value: dict[str, str]) -> bytes:
    return value["S"].encode() if "S" in value else base64.b64decode(value["B"])


def field_of(name: str) -> bytes:
    """Return the field that is stored under this name, as the README has it."""
    if name.startswith("base64:"):
        return base64.b64decode(name.removeprefix("base64:"))
    return name.removeprefix("field:").encode()


@given(FIELDS)
def test_a_name_does_not_depend_on_the_other_fields(fields: dict[bytes, bytes]) -> None:
    """A field keeps its attribute when a neighbour that is not UTF-8 comes or goes."""
    settings = Settings("table", "attributes")
    text = {name: value for name, value in fields.items() if is_text(name) and is_text(value)}
    alone, together = (item_of("k", record_of(one), settings) for one in (text, {**text, b"\xfe": b"x"}))
    assert together.items() >= alone.items()


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", ["field:id", "field:", "base64:/w=="])
def test_no_attribute_is_named_as_fields_are(name: str) -> None:
    """The key attribute cannot be what a field is stored under."""
    with pytest.raises(SetupError, match="DYNAMO_KEY_ATTRIBUTE"):
        read_settings({"DYNAMO_TABLE": "table", "DYNAMO_KEY_ATTRIBUTE": name})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 1), ("7", 2), ("10", 2), ("12", 2), ("123", 3), ("1" + "0" * 37, 2), ("-12", 2), ("-0.001", 2)),
        *(("1.5", 2), ("100.001", 4), ("0.00012", 2), ("9" * 38, 20), ("0." + "1" * 38, 20), ("-" + "1" * 37, 20)),
    ],
)
def test_a_number_counts_as_the_service_counts_it(text: str, size: int) -> None:
    """A byte for two significant digits, and one more: neither zeros at the ends, nor sign, nor point count."""
    assert size_of({"N": text}) == size


@given(st.integers(-(10**38) + 1, 10**38 - 1).map(str) | st.decimals(-1000, 1000, places=5).map("{:f}".format))
def test_the_digits_are_those_of_the_number(text: str) -> None:
    """The size follows from the number, not from how it is written."""
    if (number := number_of(text)) is not None:
        digits = len(text.removeprefix("-").replace(".", "").strip("0"))
        assert size_of(number) == -(-digits // 2) + 1


def test_an_item_of_many_zeros_is_not_too_large() -> None:
    """An item that the service takes is not refused for the length of its numbers' texts."""
    fields = {f"{n:05d}": "1" + "0" * 37 for n in range(50_000)}
    settings = Settings("table", "attributes", numbers=True)
    item = item_of("k", Record("0", "k", "k", json.dumps(fields), type="hash"), settings)
    assert checked_size(item) == len("id") + len("k") + 50_000 * (5 + 2)


TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", "\x00\x1f", "\ud800", "käse", "\u2028", "😀"])
VALUES = st.one_of(
    TEXTS.map(lambda text: {"S": text}),
    st.integers().map(lambda number: {"N": str(number)}),
    st.just({"NULL": True}),
    st.booleans().map(lambda one: {"BOOL": one}),
    st.binary(max_size=5).map(lambda raw: {"B": base64.b64encode(raw).decode()}),
    st.lists(TEXTS.map(lambda text: {"S": text}), max_size=3).map(lambda members: {"L": members}),
)


@given(st.dictionaries(TEXTS, VALUES, max_size=6))
def test_an_items_text_is_that_of_the_encoder(item: dict[str, dict[str, object]]) -> None:
    """What is put together piece by piece is byte for byte what the encoder of JSON makes of the whole."""
    assert item_text(item) == encode(item)
    try:
        size = sum(len(name.encode()) + size_of(value) for name, value in item.items())
    except UnicodeEncodeError:
        with pytest.raises(ItemError):
            checked_size(item)
    else:
        assert checked_size(item) == size
