"""What comes late: the function before a table of moto's, with a clock and a network that the tests turn."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from moto import mock_aws

from engine.sandbox import partiql
from lambdas.contract import ContractError, Deadline, SetupError, records_of
from lambdas.dynamodb import handler as function
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.repeats import TimeLeft

NOW_MS = 1_763_890_000_000
DEADLINE_MS = NOW_MS + 10_000
ANSWERED = {"batchItemFailures": []}


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Network:
    """The function's client in front of moto's; ``before`` is asked before each call, and may raise, or do whatever."""

    region = "eu-west-1"

    def __init__(self, client: Any) -> None:
        self.client = client
        self.before: Callable[[str, dict[str, Any]], None] = lambda name, request: None
        self.after: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        self.calls.append(operation)
        self.before(operation, json.loads(body))
        answer = self.send(operation, json.loads(body))
        self.after()
        return answer

    def send(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self.client, xform_name(operation))(**request)
        except ClientError as error:
            raise CallRefused(error.response["Error"]["Code"], error.response["Error"]["Message"]) from None
        return answer


class World:
    """The function's container, its table and its time; ``sleep`` moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now_ms = NOW_MS
        self.settings = Settings("table", **settings)
        self.network = Network(boto3.client("dynamodb", region_name="eu-west-1"))
        self.ghosts: list[tuple[int, str, dict[str, Any]]] = []
        self.ghost_answers: list[dict[str, Any]] = []
        self.make = function.writer_of(self.settings)
        writer = self.make(self.network, self.settings, sleep=self.sleep, rng=lambda: 1.0)
        monkeypatch.setattr(function, "now_ms", lambda: self.now_ms)
        monkeypatch.setattr(function, "_settings", lambda: self.settings)
        monkeypatch.setattr(function, "_writer", lambda: writer)
        self.network.client.create_table(
            TableName="table",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def sleep(self, seconds: float) -> None:
        """Let time pass, and with it what is under way in the network."""
        self.now_ms += round(seconds * 1_000)
        due = [ghost for ghost in self.ghosts if ghost[0] <= self.now_ms]
        for ghost in due:
            self.ghosts.remove(ghost)
            self.ghost_answers.append(self.network.send(ghost[1], ghost[2]))

    def invoke(self, records: list[dict[str, Any]], deadline_ms: int = 0) -> Any:
        return function.handler({"records": records, "deadline_ms": deadline_ms}, Context())

    def invoke_elsewhere(self, records: list[dict[str, Any]]) -> None:
        """Deliver by another container, whose network is sound."""
        time_left = TimeLeft(lambda: 60_000, Deadline(), lambda: self.now_ms)
        writer = self.make(Network(self.network.client), self.settings)
        assert function.write(self.settings, writer, records_of({"records": records})[0], time_left) == {}

    def lose(self, effect_after_ms: int) -> None:
        """Leave the next write unanswered; it takes effect so much later."""

        def before(name: str, request: dict[str, Any]) -> None:
            self.network.before = lambda name, request: None
            self.ghosts.append((self.now_ms + effect_after_ms, name, request))
            self.now_ms += 2_000
            raise NoAnswer("timed out", is_lost=True)

        self.network.before = before

    def item(self, key: str) -> dict[str, Any]:
        item: dict[str, Any] = self.network.client.get_item(TableName="table", Key={"id": {"S": key}}).get("Item", {})
        return item

    def written(self) -> int:
        return int(self.network.client.scan(TableName="table")["Count"])

    def body(self, key: str) -> str | None:
        return str(self.item(key)["body"]["S"]) if "body" in self.item(key) else None


MakeWorld = Callable[..., World]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    from moto.dynamodb.models import DynamoDBBackend

    monkeypatch.setattr(DynamoDBBackend, "batch_execute_statement", partiql.batch_execute_statement)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with mock_aws():
        yield lambda **settings: World(monkeypatch, **settings)


def record(key: str, body: str | None, version: int = 1) -> dict[str, Any]:
    return {"record_id": key, "id": key, "obj_name": key, "body": body, "version": version}


def many(body: str, version: int = 1) -> list[dict[str, Any]]:
    return [record(f"k{n}", body, version) for n in range(30)]


def failed(answer: Any) -> set[str]:
    return {one["itemIdentifier"] for one in answer["batchItemFailures"]}


# Deadlines


def test_a_deadline_between_two_calls(world: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written before the deadline stays, the rest is reported with the reason."""
    one = world()
    one.network.after = lambda: one.sleep(10)
    answer = one.invoke(many("x"), DEADLINE_MS)
    assert failed(answer) == {f"k{n}" for n in range(25, 30)}
    assert (one.body("k24"), one.body("k25")) == ("x", None)
    assert "the batch's deadline has passed" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["batch", "versioned"])
def test_after_the_deadline_nothing_is_written(world: MakeWorld, mode: str) -> None:
    """An invocation that begins after its batch's deadline touches nothing."""
    one = world(write_mode=mode)
    one.now_ms = DEADLINE_MS
    assert failed(one.invoke(many("x"), DEADLINE_MS)) == {f"k{n}" for n in range(30)}
    assert one.network.calls == []


@pytest.mark.parametrize(
    ("mode", "deadline_ms", "stale"), [("batch", 0, 5), ("batch", DEADLINE_MS, 0), ("versioned", 0, 0)]
)
def test_an_invocation_that_was_held_up(world: MakeWorld, mode: str, deadline_ms: int, stale: int) -> None:
    """It goes on when newer values are written: it replaces them, unless its deadline or the versions forbid it."""
    one = world(write_mode=mode, concurrency=1)

    def held_up() -> None:
        if one.written() == 25:
            one.network.after = lambda: None
            one.sleep(14)
            one.invoke_elsewhere(many("newer", 2))

    one.network.after = held_up
    one.invoke(many("older", 1), deadline_ms)
    assert sum(one.body(f"k{n}") == "older" for n in range(30)) == stale


@pytest.mark.parametrize(("mode", "late_effect_ms", "stays"), [("batch", 0, "older"), ("batch", 4_000, "newer")])
def test_a_call_that_was_done_again(world: MakeWorld, mode: str, late_effect_ms: int, stays: str) -> None:
    """A call without an answer takes effect after it was repeated: the function answers only when it can't any more."""
    one = world(write_mode=mode, late_effect_ms=late_effect_ms)
    one.lose(effect_after_ms=3_900)
    assert one.invoke([record("k", "older")], DEADLINE_MS) == ANSWERED
    assert one.invoke([record("k", "newer")], DEADLINE_MS) == ANSWERED
    one.sleep(60)
    assert one.body("k") == stays


@pytest.mark.parametrize(("is_known", "refusal"), [(False, "ConditionalCheckFailed"), (True, "DuplicateItem")])
def test_versions_need_not_wait_for_lost_calls(world: MakeWorld, is_known: bool, refusal: str) -> None:
    """The condition refuses the late effect, of an UPDATE or an INSERT: the function answers at once."""
    one = world(write_mode="versioned")
    if is_known:
        # A batch of new keys has the writer begin with INSERT.
        one.invoke(many("new", 1), DEADLINE_MS)
    one.lose(effect_after_ms=3_900)
    assert one.invoke([record("k", "older", 1)], DEADLINE_MS) == ANSWERED
    assert one.now_ms < NOW_MS + 2_100
    assert one.invoke([record("k", "newer", 2)], DEADLINE_MS) == ANSWERED
    one.sleep(60)
    (late,) = one.ghost_answers
    assert late["Responses"][0]["Error"]["Code"] == refusal
    assert one.body("k") == "newer"


def test_calls_that_never_set_out_are_not_waited_for(world: MakeWorld) -> None:
    """Without a connection there is no late effect."""
    one = world()

    def refused(name: str, request: dict[str, Any]) -> None:
        one.network.before = lambda name, request: None
        raise NoAnswer("refused", is_lost=False)

    one.network.before = refused
    assert one.invoke([record("k", "x")], DEADLINE_MS) == ANSWERED
    assert one.now_ms < NOW_MS + 100


def throttle(name: str, request: dict[str, Any]) -> None:
    raise CallRefused("ThrottlingException")


@pytest.mark.parametrize("mode", ["batch", "versioned"])
def test_no_wait_goes_past_the_deadline(world: MakeWorld, mode: str) -> None:
    """A repeat whose wait would end after the deadline is left to the engine."""
    one = world(write_mode=mode, backoff_ms_min=2_000, backoff_ms_max=60_000)
    one.network.before = throttle
    assert failed(one.invoke([record("k", "x")], DEADLINE_MS)) == {"k"}
    assert one.now_ms == NOW_MS + 6_000
    assert len(one.network.calls) == 3


def test_a_wrong_deadline_writes_nothing(world: MakeWorld) -> None:
    """Where nobody can tell until when to write, nothing is written."""
    one = world()
    with pytest.raises(ContractError):
        function.handler({"records": many("x"), "deadline_ms": "soon"}, Context())
    assert one.network.calls == []


# Versions


@pytest.fixture
def versioned(world: MakeWorld) -> World:
    return world(write_mode="versioned")


def test_an_older_value_is_refused(versioned: World, caplog: pytest.LogCaptureFixture) -> None:
    """An older value after a newer one is settled without an effect; versions are compared as numbers."""
    caplog.set_level(logging.DEBUG, "lambdas")
    assert versioned.invoke([record("k", "newer", 10)]) == ANSWERED
    assert versioned.invoke([record("k", "older", 9), record("other", "x", 9)]) == ANSWERED
    assert (versioned.body("k"), versioned.item("k")["version"]) == ("newer", {"N": "10"})
    assert [one.message for one in caplog.records] == ['{"event": "records_superseded", "records": 1}']
    versioned.invoke([record("k", "newest", 11)])
    assert versioned.body("k") == "newest"


def test_twice_is_harmless(versioned: World) -> None:
    """A value that comes again is settled; the same version is not written twice."""
    assert versioned.invoke([record("k", "x", 10)]) == ANSWERED
    assert versioned.invoke([record("k", "x", 10)]) == ANSWERED
    assert versioned.body("k") == "x"


def test_a_delete_leaves_a_tombstone(versioned: World) -> None:
    """An older value after a delete does not bring the key back; a newer one does."""
    versioned.invoke([record("k", "old", 10)])
    assert versioned.invoke([record("k", None, 20)]) == ANSWERED
    tombstone = {
        "id": {"S": "k"},
        "version": {"N": "20"},
        "deleted_at_ms": {"N": str(NOW_MS)},
        "expires_at": {"N": str(NOW_MS // 1_000 + 86_400)},
    }
    assert versioned.item("k") == tombstone
    assert versioned.invoke([record("k", "late", 15)]) == ANSWERED
    assert versioned.item("k") == tombstone
    versioned.invoke([record("k", "new", 21)])
    assert versioned.item("k").keys() == {"id", "obj_name", "body", "version"}
    assert versioned.invoke([record("k", None, 5)]) == ANSWERED
    assert versioned.body("k") == "new"


def test_a_delete_in_batch_mode_forgets(world: MakeWorld) -> None:
    """Without versions a late older value brings the key back: what the tombstone is for."""
    one = world()
    for body in ("old", None, "late"):
        one.invoke([record("k", body)])
    assert one.body("k") == "late"


def test_the_newest_of_a_batch_stands_for_its_key(versioned: World) -> None:
    """Of several records of one key the highest version is written, whatever their order."""
    sizes: list[int] = []
    versioned.network.before = lambda name, request: sizes.append(len(request["Statements"]))
    records = [record("k", "newer", 3), record("k", "older", 2)]
    assert versioned.invoke(records) == ANSWERED
    assert versioned.body("k") == "newer"
    # An UPDATE that finds nothing, and an INSERT.
    assert sizes == [1, 1]


def test_items_from_before_are_replaced(world: MakeWorld) -> None:
    """An item without a version is older than all; so is one whose version is a field of a hash."""
    one = world(write_mode="versioned", item_mode="attributes")
    one.network.client.put_item(TableName="table", Item={"id": {"S": "a"}, "body": {"S": "x"}})
    one.network.client.put_item(TableName="table", Item={"id": {"S": "b"}, "version": {"S": "zzz"}})
    assert one.invoke([record("a", '{"f":"1"}', 5), record("b", '{"f":"2","version":"mine"}', 5)]) == ANSWERED
    assert one.item("a") == {"id": {"S": "a"}, "version": {"N": "5"}, "f": {"S": "1"}}
    assert one.item("b") == {
        "id": {"S": "b"},
        "version": {"N": "5"},
        "f": {"S": "2"},
        "field:version": {"S": "mine"},
    }


def test_the_version_may_have_another_name(world: MakeWorld) -> None:
    """The condition is on the attribute that the settings name."""
    one = world(write_mode="versioned", version_attribute="rev", extra_attributes=("version",))
    one.invoke([record("k", "newer", 2)])
    one.invoke([record("k", "older", 1)])
    assert one.item("k") == {
        "id": {"S": "k"},
        "rev": {"N": "2"},
        "version": {"N": "2"},
        "obj_name": {"S": "k"},
        "body": {"S": "newer"},
    }


def test_what_fails_fails_alone(versioned: World) -> None:
    """A record without a version, and one that DynamoDB refuses, are reported; throttled ones are sent again."""
    seen: list[str] = []

    def before(name: str, request: dict[str, Any]) -> None:
        keys = {value["S"] for one in request["Statements"] for value in one["Parameters"] if "S" in value}
        seen.append("k7" if "k7" in keys else "")
        if seen == ["k7"]:
            throttle(name, request)
        if "k13" in keys:
            raise CallRefused("ValidationException")

    versioned.network.before = before
    assert failed(versioned.invoke([*many("x"), record("none", "x", 0)])) == {"k13", "none"}
    assert sum(versioned.body(f"k{n}") == "x" for n in range(30)) == 29
    assert seen.count("k7") >= 2


def test_setup_errors(versioned: World) -> None:
    """The check asks for the right that the writes need and leaves nothing; what is missing is one clear error."""
    assert versioned.invoke([]) == ANSWERED | {"refusesOlderVersions": True}
    assert versioned.network.calls == ["BatchExecuteStatement"]
    assert versioned.network.client.scan(TableName="table")["Count"] == 0

    def denied(name: str, request: dict[str, Any]) -> None:
        raise CallRefused("AccessDeniedException")

    versioned.network.before = denied
    for records in ([], many("x")):
        with pytest.raises(SetupError, match="grant dynamodb:PartiQLUpdate"):
            versioned.invoke(records)
    assert len(versioned.network.calls) < 15
    versioned.network.before = lambda name, request: None
    versioned.network.client.delete_table(TableName="table")
    with pytest.raises(SetupError, match="no table table"):
        versioned.invoke([])


def test_the_wrong_key_attribute_is_told(world: MakeWorld) -> None:
    """A table with another key does not take ours."""
    with pytest.raises(SetupError, match="does not accept our key"):
        world(write_mode="versioned", key_attribute="pk").invoke([])


def test_the_originals_record_needs_batch_mode(versioned: World) -> None:
    """It has no version: versioned writes refuse it, and say what to do."""
    with pytest.raises(SetupError, match="needs batches"):
        function.handler({"id": "k", "obj_name": "k", "body": "{}"}, Context())
    assert versioned.network.calls == []
