"""Functions of one's own: the examples, run by the sandbox's runtime and invoked by the engine."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox
from lambdas.examples.powertools.handler import handler
from tests.support import wait_for, whole_path

POWERTOOLS = FunctionSpec(
    "carts",
    "lambdas.examples.powertools.handler:handler",
    environment={"POWERTOOLS_METRICS_DISABLED": "true", "AWS_LAMBDA_FUNCTION_NAME": "carts"},
)
ORIGINAL = FunctionSpec("original", "lambdas.examples.original.handler:handler", environment={"TABLE": DEFAULT_TABLE})


def unsettled(totals: dict[str, int]) -> int:
    """Return how many keys are to be delivered: in memory, or, where one has failed alone for a while, on disk."""
    return max(totals["keys_in_flight"] + totals["keys_waiting"], totals["keys_backlog"])


def test_with_powertools_a_record_fails_alone(tmp_path: Path) -> None:
    """A cart that can't be counted is delivered again until it can be; its neighbours are settled at once."""
    with whole_path(tmp_path, functions=[POWERTOOLS]) as path:
        path.write_config('[[routes]]\nname = "carts"\nfunction = "carts"\nevents = ["hset", "del"]\n')
        path.start()
        path.client.hset("cart:bad", "tea", "many")
        for number in range(20):
            path.client.hset(f"cart:{number}", "tea", number)
        path.client.delete("cart:0")
        wait_for(lambda: path.totals()["records_retried"] >= 2, "the bad cart, again")
        wait_for(lambda: unsettled(path.totals()) == 1, "all others settled")
        path.client.hset("cart:bad", "tea", 3)
        wait_for(lambda: unsettled(path.totals()) == 0, "the cart, mended")
        assert path.totals()["records_delivered"] >= 21
        assert path.stop() == 0


def test_with_powertools_nothing_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that comes late fails as a whole, so that the engine delivers its keys again."""
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    records = [{"record_id": str(number), "id": "cart", "body": '{"tea":"1"}'} for number in range(2)]
    assert handler({"records": records, "deadline_ms": 1}, None) == {
        "batchItemFailures": [{"itemIdentifier": "0"}, {"itemIdentifier": "1"}]
    }
    assert handler({"records": records, "deadline_ms": 1 << 50}, None) == {"batchItemFailures": []}


def test_a_function_of_the_originals_works_unchanged() -> None:
    """It gets one record an invocation, as the original sends it, and its item is there."""
    with Sandbox(functions=[ORIGINAL]) as sandbox:
        body = '{"firstName":"John"}'
        event = orjson.dumps({"id": "person1", "obj_name": "person1", "body": body})
        answer = sandbox.lambda_client().invoke(FunctionName="original", Payload=event)
        assert not answer.get("FunctionError")
        item = sandbox.dynamodb_client().get_item(TableName=sandbox.table, Key={"id": {"S": "person1"}})["Item"]
        assert (item["obj_name"]["S"], item["body"]["S"]) == ("person1", body)


def test_a_route_for_the_originals_payload_needs_nothing_else(tmp_path: Path) -> None:
    """With payload = "original" each change is an invocation of its own, with the three fields."""
    with whole_path(tmp_path) as path:
        path.write_config('[[routes]]\nname = "old"\nfunction = "accept"\npayload = "original"\n')
        path.start()
        for number in range(5):
            path.client.hset(f"person:{number}", "name", number)
        wait_for(lambda: len(path.last()) == 5, "every person")
        assert path.stop() == 0
        assert {tuple(sorted(one["event"])) for one in path.invocations()} == {("body", "id", "obj_name")}


def test_a_record_that_a_function_of_the_originals_refuses_comes_again(tmp_path: Path) -> None:
    """What it raises delays that record alone; when its value can be written, it is."""
    with DynamoDbServer() as database:
        database.create_table(DEFAULT_TABLE)
        told = {"TABLE": DEFAULT_TABLE, "AWS_ENDPOINT_URL_DYNAMODB": database.endpoint}
        with whole_path(tmp_path, functions=[FunctionSpec("original", ORIGINAL.handler, environment=told)]) as path:
            path.write_config('[[routes]]\nname = "old"\nfunction = "original"\npayload = "original"\n')
            path.start()
            # Larger than an item may be.
            path.client.hset("person:large", "name", "n" * 450_000)
            for number in range(20):
                path.client.hset(f"person:{number}", "name", number)
            wait_for(lambda: path.totals()["records_delivered"] == 20, "its neighbours")
            wait_for(lambda: path.totals()["records_retried"] >= 2, "the large one, again")
            path.client.hset("person:large", "name", "Smith")
            wait_for(lambda: path.totals()["records_delivered"] == 21, "the large one, mended")
            assert path.stop() == 0
        client = database.client()
        assert client.scan(TableName=DEFAULT_TABLE, Select="COUNT")["Count"] == 21
        item = client.get_item(TableName=DEFAULT_TABLE, Key={"id": {"S": "person:large"}})["Item"]
        assert item["body"]["S"] == '{"name":"Smith"}'
