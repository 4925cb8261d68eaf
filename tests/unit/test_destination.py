from __future__ import annotations

import base64
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoRegionError, ReadTimeoutError
from hypothesis import example, given
from hypothesis import strategies as st

from engine.delivery.reading.values import key_text
from engine.destination.base import DestinationError, Item, Target, check_destination, parse_destination
from engine.destination.dynamodb import DELETED_AT, DynamoDb
from engine.destination.patience import Patience
from engine.destination.stored import StoredKeys
from lambdas.contract import Record
from lambdas.dynamodb.items import ItemError, item_of, table_key
from lambdas.dynamodb.settings import Settings

TABLE = "carts"
PREFIXED = st.sampled_from([b"", b"base64:", b"utf8:", b"base64", b"utf8:utf8:", b"base64:/w==", b"\xff"])


class Client:
    """A table in memory that answers as boto3's client; ``answers`` replace its own."""

    def __init__(self, *items: dict[str, Any], answers: list[Any] | None = None, name: str = TABLE) -> None:
        self.name = name
        self.items = {item["id"]["S"]: item for item in items}
        self.answers = answers or []
        self.asked: list[dict[str, Any]] = []

    def batch_get_item(self, **request: Any) -> Any:
        (wanted,) = request["RequestItems"].values()
        assert wanted["ConsistentRead"]
        names = [key["id"]["S"] for key in wanted["Keys"]]
        assert len(names) == len(set(names)) <= 100, "DynamoDB would refuse this"
        self.asked.append(request)
        left: Any = 0
        if self.answers:
            left = self.answers.pop(0)
            if isinstance(left, Exception):
                raise left
        done = names[: len(names) - left]
        answer = {"Responses": {self.name: [self.items[name] for name in done if name in self.items]}}
        if left:
            answer["UnprocessedKeys"] = {self.name: {"Keys": wanted["Keys"][-left:]}}  # type: ignore[dict-item]
        return answer


def table(client: Any, **options: Any) -> DynamoDb:
    return DynamoDb(
        Target(TABLE, **options), "", make_client=lambda: client, patience=Patience(20, sleep=lambda s: None)
    )


def record(key: bytes = b"k", body: str | None = '{"f":"v"}', **fields: Any) -> Record:
    text, encoding = key_text(key)
    return Record("", text, text, body, id_encoding=encoding, **fields)


def _read(value: Any) -> Any:
    """Return what boto3 makes of an item on the wire."""
    if isinstance(value, dict):
        return {
            name: base64.b64decode(one) if name == "B" and isinstance(one, str) else _read(one)
            for name, one in value.items()
        }
    return [_read(one) for one in value] if isinstance(value, list) else value


def written(one: Record, **settings: Any) -> Item:
    """Return the item that the function writes."""
    item = _read(item_of(table_key(one), one, Settings(table=TABLE, **settings)))
    version = item.get("version", {}).get("N", "0")
    return Item(b"k", item, version=int(version))


@given(PREFIXED, st.binary(max_size=40))
@example(b"base64:", b"")
@example(b"", b"utf8:base64:\xff")
def test_every_key_comes_back(prefix: bytes, rest: bytes) -> None:
    """A key's name in the table gives the key again, whatever its bytes, unless it can't be stored."""
    key = prefix + rest
    try:
        name = StoredKeys().name_of(key)
    except ItemError:
        assert not key
        return
    assert StoredKeys().key_of(name) == key


@given(st.one_of(st.text(), st.text().map("base64:".__add__), st.text().map("utf8:".__add__)))
@example("base64:YQ==")
@example("base64:/w==\n")
@example("utf8:check")
@example("\ud800")
def test_a_name_that_no_key_has_is_nobodys(name: str) -> None:
    """No two names give one key: a name either is what its key is stored as, or belongs to no key."""
    key = StoredKeys().key_of(name)
    assert key is None or StoredKeys().name_of(key) == name


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("dynamodb://carts", Target("carts")),
        ("dynamodb://Carts.v2_x-1?item_mode=attributes", Target("Carts.v2_x-1", "attributes")),
        ("dynamodb://carts?key_attribute=pk", Target("carts", "body", "pk")),
        ("dynamodb://carts?extra_attributes=type,version", Target("carts", extra_attributes=("type", "version"))),
    ],
)
def test_destinations(value: str, target: Target) -> None:
    """A destination is a table, and how the function was told to write to it."""
    assert check_destination(value) is None
    assert parse_destination(value) == target


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("carts", "dynamodb:// is the only kind"),
        ("s3://carts", "dynamodb:// is the only kind"),
        ("dynamodb://", "names no DynamoDB table"),
        ("dynamodb://carts/path", "names no DynamoDB table"),
        ("dynamodb://ca rts", "names no DynamoDB table"),
        ("dynamodb://carts?mode=body", "'mode' is not an option"),
        ("dynamodb://carts?item_mode=body&item_mode=body", "twice"),
        ("dynamodb://carts?item_mode=rows", "allowed are body, attributes"),
        ("dynamodb://carts?key_attribute=", "key_attribute is ''"),
        ("dynamodb://carts?key_attribute=body", "another attribute"),
        ("dynamodb://carts?extra_attributes=body", "extra_attributes holds 'body'"),
        ("dynamodb://[::1", "Invalid IPv6 URL"),
    ],
)
def test_wrong_destinations(value: str, part: str) -> None:
    """Each mistake is told, with the form that is right."""
    found = check_destination(value)
    assert found is not None
    assert part in found[0]
    assert "dynamodb://TABLE" in found[1]


def test_no_destination_is_sound() -> None:
    """A route needs none."""
    assert check_destination("") is None


@pytest.mark.parametrize("extra", [(), ("version",), ("db", "version"), ("type", "event", "version", "db")])
@pytest.mark.parametrize("mode", ["body", "attributes"])
@given(fields=st.dictionaries(st.text(max_size=5) | st.sampled_from(["id", "type", "version", "field:id"]), st.text()))
def test_what_the_function_writes_is_held(mode: str, extra: tuple[str, ...], fields: dict[str, str]) -> None:
    """An item that the function made of a record is equal to it, whatever else the function was told to add."""
    import orjson

    one = record(body=orjson.dumps(fields).decode(), version=7, event="hset")
    item = written(one, item_mode=mode, extra_attributes=extra)
    declared = table(None, item_mode=mode, extra_attributes=extra)
    assert declared.holds(item, one)
    other = record(body=orjson.dumps({**fields, "more": "x", "id": "y"}).decode(), version=8, event="hset")
    assert not declared.holds(item, other)
    assert not declared.holds(written(other, item_mode=mode, extra_attributes=extra), one)
    if set(extra) <= {"version", "db"}:
        # They show by being numbers: a field never is one.
        assert table(None, item_mode=mode).holds(item, one)


def test_binary_bodies() -> None:
    """A body in base64 is not the text that it looks like."""
    binary = record(body='{"/w==":"/w=="}', body_encoding="base64")
    text = record(body='{"/w==":"/w=="}')
    for mode in ("body", "attributes"):
        assert table(None, item_mode=mode).holds(written(binary, item_mode=mode), binary)
        assert not table(None, item_mode=mode).holds(written(binary, item_mode=mode), text)
        assert not table(None, item_mode=mode).holds(written(text, item_mode=mode), binary)


def test_refusals() -> None:
    """What DynamoDB would never take is told by its reason."""
    assert table(None).refusal(record()) == ""
    assert "empty key" in table(None).refusal(record(b""))
    assert "2048" in table(None).refusal(record(b"k" * 2_049))
    assert "bytes" in table(None).refusal(record(body='"' + "v" * 450_000 + '"'))
    assert not table(None).holds(written(record()), record(body='"' + "v" * 450_000 + '"'))


def test_get_asks_for_each_key_once_in_calls_that_fit() -> None:
    """Keys come in calls of 100, doubles once, those that can't be stored never; tombstones are told apart."""
    client = Client(
        {"id": {"S": "k:1"}, "body": {"S": "x"}, "version": {"N": "12"}},
        {"id": {"S": "base64:/w=="}, DELETED_AT: {"N": "5"}},
        {"id": {"S": "k:2"}, DELETED_AT: {"S": "a field of this name"}},
    )
    keys = [b"k:%d" % n for n in range(150)]
    items = table(client).get([*keys, b"k:1", b"\xff", b"", b"l" * 3_000])
    assert set(items) == {b"k:1", b"k:2", b"\xff"}
    assert (items[b"k:1"].version, items[b"k:1"].is_absent) == (12, False)
    assert items[b"\xff"].is_absent
    assert not items[b"k:2"].is_absent
    assert len(client.asked) == 2


def test_unprocessed_keys_are_asked_for_again() -> None:
    """What an answer leaves out is asked for again; only a table that gives nothing many times over is given up."""
    stored = [{"id": {"S": f"k:{n}"}} for n in range(10)]
    assert len(table(Client(*stored, answers=[9, 9, 5, 1])).get([b"k:%d" % n for n in range(10)])) == 10
    with pytest.raises(DestinationError, match="throttled"):
        table(Client(*stored, answers=[10] * 20)).get([b"k:%d" % n for n in range(10)])


def test_an_answer_counts_by_whatever_name_it_calls_the_table() -> None:
    """A table asked for by its ARN is answered for by its name: nothing that it holds, or left, is passed over."""
    stored = [{"id": {"S": f"k:{n}"}} for n in range(10)]
    client = Client(*stored, answers=[9, 5], name="known by another name")
    assert len(table(client).get([b"k:%d" % n for n in range(10)])) == 10


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "m"}}, "x"), "does the table exist"),
        (ClientError({"Error": {"Code": "AccessDeniedException", "Message": "m"}}, "x"), "grant dynamodb:BatchGetItem"),
        (ClientError({"Error": {"Code": "ValidationException", "Message": "m"}}, "x"), "key_attribute"),
        (NoRegionError(), "region"),
    ],
)
def test_a_table_that_cannot_be_read(error: Exception, part: str) -> None:
    """Each failure names the table and the remedy."""
    with pytest.raises(DestinationError, match="the table carts cannot be read") as raised:
        table(Client(answers=[error])).get([b"k"])
    assert part in raised.value.hint


THROTTLED = ClientError({"Error": {"Code": "ThrottlingException", "Message": "m"}}, "x")
TIMEOUT = ReadTimeoutError(endpoint_url="http://x")
BROKEN = ClientError({"Error": {"Code": "Odd"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "x")


def test_a_slow_table_is_asked_again_and_the_remedy_fits_in_the_end() -> None:
    """Timeouts, throttles and the service's own errors are waited out; what never ends is told as what it is."""
    stored = {"id": {"S": "k"}}
    assert len(table(Client(stored, answers=[TIMEOUT, THROTTLED, BROKEN, TIMEOUT, 0])).get([b"k"])) == 1
    for error, part in ((TIMEOUT, "too slow"), (THROTTLED, "--keys-per-s"), (BROKEN, "run it again")):
        with pytest.raises(DestinationError, match="cannot be read") as raised:
            table(Client(stored, answers=[error] * 50)).get([b"k"])
        assert part in raised.value.hint
        assert "credentials" not in raised.value.hint


@pytest.mark.parametrize("mode", ["attributes", "nested"])
def test_numbers_and_times_to_live_are_compared(mode: str) -> None:
    """A field that became a number is told from another; a time to live and a version are nobody's field."""
    options = {"item_mode": mode, "numbers": True, "ttl_attribute": "ttl", "version_attribute": "rev"}
    one = record(body='{"n":"7","s":"007"}', expires_at_ms=1_763_890_000_000)
    item = written(one, **options)
    item = Item(item.key, {**item.content, "rev": {"N": "5"}})
    db = table(None, **options)
    assert db.holds(item, record(body='{"n":"7","s":"007"}'))
    assert not db.holds(item, record(body='{"n":"8","s":"007"}'))
    assert not db.holds(item, record(body='{"n":"7","s":"7"}'))
