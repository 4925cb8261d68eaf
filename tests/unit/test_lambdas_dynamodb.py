from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from engine.config import DeliverySettings
from lambdas import contract
from lambdas.contract import ContractError, Deadline, Record, SetupError
from lambdas.dynamodb import handler
from lambdas.dynamodb.calls import Write
from lambdas.dynamodb.errors import CallRefused
from lambdas.dynamodb.handler import write
from lambdas.dynamodb.items import ItemError, item_of, table_key
from lambdas.dynamodb.puts import PutWriter
from lambdas.dynamodb.settings import Settings, read_settings
from lambdas.dynamodb.versioned import VersionedWriter
from lambdas.dynamodb.writer import BatchWriter, chunks
from lambdas.repeats import TimeLeft

SETTINGS = Settings("table")


def record(key: str, body: str | None = '{"f":"v"}', **more: Any) -> Record:
    return Record(more.pop("record_id", key), key, key, body, **more)


class ScriptedClient:
    """Answers as DynamoDB does, by a script: what each call does with its requests."""

    region = "eu-west-1"

    def __init__(self, *answers: Callable[[list[Any]], list[Any]]) -> None:
        self.answers = list(answers)
        self.written: dict[str, Any] = {}
        self.calls: list[int] = []

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        assert operation == "BatchWriteItem"
        requests = json.loads(body)["RequestItems"]["table"]
        self.calls.append(len(requests))
        keys = [key_of(request) for request in requests]
        assert len(keys) == len(set(keys)) <= 25, "DynamoDB rejects this call"
        unprocessed = self.answers.pop(0)(requests) if self.answers else []
        for request in requests:
            if request not in unprocessed:
                self.written[key_of(request)] = request
        return {"UnprocessedItems": {"table": unprocessed} if unprocessed else {}}


def key_of(request: Any) -> str:
    if "PutRequest" in request:
        return str(request["PutRequest"]["Item"]["id"]["S"])
    return str(request["DeleteRequest"]["Key"]["id"]["S"])


def error(code: str, status: int = 400) -> CallRefused:
    return CallRefused(code, "said so", status)


def raising(code: str, status: int = 400) -> Callable[[list[Any]], list[Any]]:
    def answer(_requests: list[Any]) -> list[Any]:
        raise error(code, status)

    return answer


def run(
    client: ScriptedClient, records: list[Record], remaining_ms: int = 60_000
) -> tuple[dict[str, str], list[float]]:
    sleeps: list[float] = []
    writer = BatchWriter(client, SETTINGS, sleep=sleeps.append, rng=lambda: 1.0)
    time_left = TimeLeft(lambda: remaining_ms, Deadline(), lambda: 0)
    return write(SETTINGS, writer, records, time_left), sleeps


def test_unprocessed_items_are_driven_again() -> None:
    """What DynamoDB leaves unprocessed is sent again, after growing waits, and nothing else is."""
    client = ScriptedClient(lambda requests: requests[10:], lambda requests: requests[5:])
    failed, sleeps = run(client, [record(f"k{n}") for n in range(25)])
    assert failed == {}
    assert client.calls == [25, 15, 10]
    assert len(client.written) == 25
    assert sleeps == [0.025, 0.05]


def test_what_stays_unprocessed_fails_alone() -> None:
    """When the attempts are used up, what is left is reported, and what was written is not."""
    keep_last = lambda requests: [r for r in requests if key_of(r) == "k1"]  # noqa: E731
    client = ScriptedClient(*[keep_last] * 20)
    failed, _ = run(client, [record("k0"), record("k1")])
    assert list(failed) == ["k1"]
    assert "throttled" in failed["k1"]


def test_no_wait_goes_past_the_invocations_time() -> None:
    """With too little time left for a wait, the rest fails at once instead of being cut off."""
    client = ScriptedClient(lambda requests: requests)
    failed, sleeps = run(client, [record("k")], remaining_ms=1_010)
    assert list(failed) == ["k"]
    assert sleeps == []


@pytest.mark.parametrize("code", ["ThrottlingException", "ProvisionedThroughputExceededException"])
def test_throttled_calls_are_sent_again(code: str) -> None:
    """A throttled call is no failure of its records."""
    client = ScriptedClient(raising(code), raising("InternalServerError", 500))
    failed, sleeps = run(client, [record("k")])
    assert failed == {}
    assert len(sleeps) == 2


def test_a_poisoned_record_fails_alone() -> None:
    """One item that DynamoDB refuses is found by halves; its neighbours are written."""

    def refuse(requests: list[Any]) -> list[Any]:
        if any(key_of(request) == "k13" for request in requests):
            raise error("ValidationException")
        return []

    client = ScriptedClient(*[refuse] * 50)
    failed, _ = run(client, [record(f"k{n}") for n in range(25)])
    assert failed == {"k13": "ValidationException: said so"}
    assert len(client.written) == 24


@pytest.mark.parametrize(
    ("code", "words"), [("ResourceNotFoundException", "no table table"), ("AccessDeniedException", "grant")]
)
def test_a_missing_table_is_one_clear_error(code: str, words: str) -> None:
    """What no retry can mend is raised, and names the table and the remedy."""
    with pytest.raises(SetupError, match=words):
        run(ScriptedClient(raising(code)), [record("k")])


def test_an_empty_batch_sees_to_the_table() -> None:
    """The check needs only the right to write, touches no key of Redis, and names what is wrong."""
    client = ScriptedClient()
    BatchWriter(client, SETTINGS).check()
    (key,) = client.written
    assert key not in {table_key(record(text)) for text in ("check", "utf8:check", "base64:check")}
    with pytest.raises(SetupError, match="no table table"):
        BatchWriter(ScriptedClient(raising("ResourceNotFoundException")), SETTINGS).check()
    with pytest.raises(SetupError, match="does not accept our key"):
        BatchWriter(ScriptedClient(raising("ValidationException")), SETTINGS).check()
    BatchWriter(ScriptedClient(raising("ThrottlingException")), SETTINGS).check()


def test_the_last_record_of_a_key_wins() -> None:
    """BatchWriteItem rejects two requests for one key: the newest stands for all, and they share its outcome."""
    records = [record("k", '{"n":"1"}', record_id="1"), record("k", '{"n":"2"}', record_id="2")]
    client = ScriptedClient()
    assert run(client, records)[0] == {}
    assert client.written["k"]["PutRequest"]["Item"]["body"] == {"S": '{"n":"2"}'}
    client = ScriptedClient(*[raising("ValidationException")] * 5)
    assert set(run(client, records)[0]) == {"1", "2"}


def test_records_that_cannot_be_items_fail_alone() -> None:
    """An empty key, a key that is too long and an item that is too large are told, and do not stop the rest."""
    records = [record("", record_id="empty"), record("k" * 2_049, record_id="long")]
    records += [record("large", '"' + "v" * 500_000 + '"'), record("good")]
    failed, _ = run(ScriptedClient(), records)
    assert set(failed) == {"empty", "long", "large"}


def test_a_gone_key_is_deleted() -> None:
    """A record without a body deletes the item."""
    client = ScriptedClient()
    run(client, [record("k", None)])
    assert client.written["k"] == {"DeleteRequest": {"Key": {"id": {"S": "k"}}}}


def test_keys_never_meet() -> None:
    """A key that is not UTF-8, and keys that look like its stored form, have items of their own."""
    raw = base64.b64encode(b"\xff").decode()
    keys = [
        table_key(record(raw, id_encoding="base64")),
        table_key(record(f"base64:{raw}")),
        table_key(record(f"utf8:base64:{raw}")),
        table_key(record(raw)),
    ]
    assert len(set(keys)) == 4


def test_the_item_is_the_originals_three_attributes() -> None:
    """By default an item holds id, obj_name and body, as the original's did."""
    assert item_of("k", record("k"), SETTINGS) == {"id": {"S": "k"}, "obj_name": {"S": "k"}, "body": {"S": '{"f":"v"}'}}


def test_attributes_mode_loses_no_field() -> None:
    """One attribute a field; a field with a taken name is kept under another."""
    settings = Settings("table", "attributes", extra_attributes=("version",))
    body = json.dumps({"id": "mine", "field:id": "too", "version": "7", "name": "x"})
    assert item_of("k", record("k", body, version=9), settings) == {
        "id": {"S": "k"},
        "version": {"N": "9"},
        "field:id": {"S": "mine"},
        "field:field:id": {"S": "too"},
        "field:version": {"S": "7"},
        "name": {"S": "x"},
    }
    with pytest.raises(ItemError):
        item_of("k", record("k", "not json"), settings)


def test_binary_fields_are_binary_attributes() -> None:
    """Values that are not UTF-8 become binary attributes; a base64 body is marked in body mode."""
    body = json.dumps({base64.b64encode(b"f").decode(): base64.b64encode(b"\xff").decode()})
    one = record("k", body, body_encoding="base64")
    assert item_of("k", one, Settings("table", "attributes"))["f"] == {"B": "/w=="}
    assert item_of("k", one, SETTINGS)["body_encoding"] == {"S": "base64"}


def test_chunks_are_bounded_by_items_and_bytes() -> None:
    """No call has more than 25 items or 15 MB."""
    writes = [Write(str(n), None, 1_000) for n in range(60)]
    assert [len(chunk) for chunk in chunks(writes)] == [25, 25, 10]
    writes = [Write(str(n), None, 6 * 1024 * 1024) for n in range(5)]
    assert [len(chunk) for chunk in chunks(writes)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "DYNAMO_TABLE is not set"),
        ({"DYNAMO_ITEM_MODE": "rows"}, "body, attributes, nested"),
        ({"DYNAMO_EXTRA_ATTRIBUTES": "type,size"}, "'size'"),
        ({"DYNAMO_ATTEMPTS_MAX": "none"}, "from 1 to 100"),
        ({"DYNAMO_KEY_ATTRIBUTE": "body"}, "another attribute"),
        ({"DYNAMO_KEY_ATTRIBUTE": "expires_at", "DYNAMO_WRITE_MODE": "versioned"}, "another attribute"),
        ({"DYNAMO_WRITE_MODE": "safe"}, "batch, versioned"),
        ({"DYNAMO_VERSION_ATTRIBUTE": "body", "DYNAMO_WRITE_MODE": "versioned"}, "another attribute"),
        ({"DYNAMO_VERSION_ATTRIBUTE": "id", "DYNAMO_WRITE_MODE": "versioned"}, "another attribute"),
        ({"DYNAMO_CONCURRENCY": "0"}, "from 1 to 256"),
        ({"DYNAMO_BACKOFF_MS_MIN": "500", "DYNAMO_BACKOFF_MS_MAX": "100"}, "larger"),
    ],
)
def test_wrong_settings_name_the_variable_and_what_is_allowed(environ: dict[str, str], words: str) -> None:
    """A wrong variable is one clear error."""
    if environ:
        environ = {"DYNAMO_TABLE": "table", **environ}
    with pytest.raises(SetupError, match=words):
        read_settings(environ)


@pytest.mark.parametrize(
    ("write_mode", "item_mode", "kind"),
    [
        ("batch", "attributes", BatchWriter),
        ("versioned", "body", VersionedWriter),
        ("versioned", "nested", VersionedWriter),
        ("versioned", "attributes", PutWriter),
    ],
)
def test_the_modes_choose_the_writer(write_mode: str, item_mode: str, kind: type) -> None:
    """Versioned items go in batches, but where an UPDATE would keep the fields that are gone."""
    environ = {"DYNAMO_TABLE": "table", "DYNAMO_WRITE_MODE": write_mode, "DYNAMO_ITEM_MODE": item_mode}
    assert handler.writer_of(read_settings(environ)) is kind


def test_the_defaults_fit_the_engines_margin() -> None:
    """The function's last call ends within the margin that the engine leaves after a deadline."""
    margin_ms = DeliverySettings().deadline_margin_ms
    assert SETTINGS.connect_timeout_ms + SETTINGS.read_timeout_ms < margin_ms <= SETTINGS.late_effect_ms


def test_malformed_records_are_told_apart() -> None:
    """A record that can be named fails alone; one that cannot fails the batch."""
    good = {"record_id": "0", "id": "k", "body": "{}"}
    records, malformed = contract.records_of({"records": [good, {"record_id": "1", "id": 7}]})
    assert [one.id for one in records] == ["k"]
    assert malformed == [("1", "id is not a string")]
    with pytest.raises(ContractError, match="record_id"):
        contract.records_of({"records": [{"id": "k"}]})
    with pytest.raises(ContractError):
        contract.single(["not a record"])
