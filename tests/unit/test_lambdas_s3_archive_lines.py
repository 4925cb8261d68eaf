"""What a record becomes in the archive: a line, an object, a folder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lambdas.contract import Record
from lambdas.s3_archive.lines import RecordRefused, line_of, objects_of
from lambdas.s3_archive.settings import Settings

NOW_MS = 1_763_890_000_000  # 2025-11-23T09:26:40Z
NEXT_HOUR_MS = NOW_MS + 2_000_000  # 10:00:00
HERE = "carts/date=2025-11-23/hour=09/"
SETTINGS = Settings("history", "carts/")


def record(body: str | None = "{}", **more: Any) -> Record:
    times = {"version": NOW_MS * 1_000, "captured_at_ms": NOW_MS}
    return Record("0", more.pop("id", "k"), "k", body, **{**times, **more})


def content_of(one: Record) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(line_of(one, SETTINGS, 0).data)
    return content


def test_a_value_is_a_line() -> None:
    """A line holds the key, what its value is, which one, when, and the value's own text."""
    one = record('{"tea":"2"}', id="cart:7", event="hset", db=3)
    assert content_of(one) == {
        "key": "cart:7",
        "type": "hash",
        "event": "hset",
        "db": 3,
        "version": NOW_MS * 1_000,
        "captured_at": "2025-11-23T09:26:40.000Z",
        "deleted": False,
        "value": '{"tea":"2"}',
    }


def test_a_gone_key_is_a_line() -> None:
    """A delete is told, and has no value."""
    content = content_of(record(None, event="expired", type="none"))
    assert (content["deleted"], content["event"], "value" in content) == (True, "expired", False)


def test_what_is_not_utf_8_says_so() -> None:
    """A key and a value in base64 are marked, each on its own."""
    assert content_of(record('"/w=="', body_encoding="base64"))["value_encoding"] == "base64"
    content = content_of(record(id="/w==", id_encoding="base64"))
    assert (content["key"], content["key_encoding"], "value_encoding" in content) == ("/w==", "base64", False)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\u2028\u2029\x85", "\x00\x1f", '"quotes" \\', "Zürich 🫖"])
def test_any_text_stays_on_its_line(text: str) -> None:
    """Whatever is in key and value, a line ends where it ends, and is read back as it was."""
    data = line_of(record(json.dumps({text: text}), id=text), SETTINGS, 0).data
    assert [data.count(end) for end in (b"\n", b"\r")] == [1, 0]
    content = json.loads(data)
    assert (content["key"], json.loads(content["value"])) == (text, {text: text})


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (record("{"), "not JSON"),
        (record('{"n":NaN}'), "NaN"),
        (record("[" * 100_000), "not JSON"),
        (record(id="\ud800"), "not Unicode"),
        (record(captured_at_ms=-1), "captured_at_ms"),
        (record(captured_at_ms=NOW_MS * 1_000), "captured_at_ms"),
        (record(version=2**63), "version"),
        (record(version=-1), "version"),
        (record(db=-1), "db"),
    ],
)
def test_a_line_that_no_query_could_read_is_refused(one: Record, words: str) -> None:
    """A record that would make whole queries fail is refused, with the reason."""
    with pytest.raises(RecordRefused, match=words):
        line_of(one, SETTINGS, 0)


@pytest.mark.parametrize(
    ("captured_at_ms", "partition", "folder"),
    [
        (NOW_MS, "hour", "date=2025-11-23/hour=09/"),
        (NEXT_HOUR_MS - 1, "hour", "date=2025-11-23/hour=09/"),
        (NEXT_HOUR_MS, "hour", "date=2025-11-23/hour=10/"),
        (1_763_942_399_999, "day", "date=2025-11-23/"),
        (1_763_942_400_000, "day", "date=2025-11-24/"),
    ],
)
def test_partitions_are_times_in_utc(captured_at_ms: int, partition: str, folder: str) -> None:
    """A line lies where the hour, or the day, of its capture is."""
    line = line_of(record(captured_at_ms=captured_at_ms), Settings("history", partition=partition), 0)
    assert line.partition == folder


def test_equal_lines_make_an_equal_object() -> None:
    """The order in which records come changes nothing; another value is another object."""
    some = [line_of(record(version=version, id=f"k{version}"), SETTINGS, 0) for version in (3, 1, 2)]
    (first,) = objects_of(some, SETTINGS)
    (again,) = objects_of(reversed(some), SETTINGS)
    assert (first.name, first.body) == (again.name, again.body)
    assert first.name.startswith(f"{HERE}1-3-")
    (other,) = objects_of([*some[:2], line_of(record('"new"', version=2, id="k2"), SETTINGS, 0)], SETTINGS)
    assert other.name != first.name
