from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox, default_functions

VERSIONED = FunctionSpec(
    "versioned",
    "lambdas.dynamodb.handler:handler",
    environment={"DYNAMO_TABLE": DEFAULT_TABLE, "DYNAMO_WRITE_MODE": "versioned"},
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(functions=[*default_functions(DEFAULT_TABLE), VERSIONED]) as stack:
        yield stack


def invoke(sandbox: Sandbox, event: Any, function: str = "dynamodb") -> tuple[str, Any]:
    answer = sandbox.lambda_client().invoke(FunctionName=function, Payload=orjson.dumps(event))
    return answer.get("FunctionError", ""), orjson.loads(answer["Payload"].read())


def record(number: int, key: str, body: str | None = '{"f":"v"}') -> dict[str, Any]:
    return {"record_id": str(number), "id": key, "obj_name": key, "body": body, "event": "hset", "type": "hash"}


def body_of(sandbox: Sandbox, key: str) -> str | None:
    answer = sandbox.dynamodb_client().get_item(TableName=sandbox.table, Key={"id": {"S": key}})
    return answer["Item"]["body"]["S"] if "body" in answer.get("Item", {}) else None


def test_a_batch_of_500_with_one_poisoned_record(sandbox: Sandbox) -> None:
    """499 records are in the table; the one that cannot be is named in the answer."""
    records = [record(n, f"batch:{n}") for n in range(500)]
    records[123] = record(123, "batch:123", '"' + "v" * 450_000 + '"')
    error, answer = invoke(sandbox, {"records": records})
    assert error == ""
    assert [one["itemIdentifier"] for one in answer["batchItemFailures"]] == ["123"]
    assert body_of(sandbox, "batch:122") == '{"f":"v"}'
    assert body_of(sandbox, "batch:123") is None
    assert body_of(sandbox, "batch:499") == '{"f":"v"}'


def test_the_originals_payload(sandbox: Sandbox) -> None:
    """One record an invocation is written as the original's function wrote it."""
    body = '{"firstName":"John"}'
    error, answer = invoke(sandbox, {"id": "person1", "obj_name": "person1", "body": body})
    assert (error, answer) == ("", {"batchItemFailures": []})
    assert body_of(sandbox, "person1") == body


def test_a_delete_removes_the_item(sandbox: Sandbox) -> None:
    """A record without a body deletes its item, and may find none."""
    invoke(sandbox, {"records": [record(0, "doomed")]})
    assert body_of(sandbox, "doomed") is not None
    assert invoke(sandbox, {"records": [record(0, "doomed", None), record(1, "never-there", None)]})[0] == ""
    assert body_of(sandbox, "doomed") is None


@pytest.mark.parametrize("function", ["dynamodb", "versioned"])
def test_after_its_deadline_a_batch_is_not_written(sandbox: Sandbox, function: str) -> None:
    """An invocation that comes late writes nothing and reports everything; one in time writes."""
    now_ms = time.time_ns() // 1_000_000
    batch = {"records": [record(0, f"{function}:due") | {"version": 1}]}
    error, answer = invoke(sandbox, batch | {"deadline_ms": now_ms - 1}, function)
    assert (error, [one["itemIdentifier"] for one in answer["batchItemFailures"]]) == ("", ["0"])
    assert "deadline" in answer["batchItemFailures"][0]["reason"]
    assert body_of(sandbox, f"{function}:due") is None
    assert invoke(sandbox, batch | {"deadline_ms": now_ms + 60_000}, function)[1] == {"batchItemFailures": []}
    assert body_of(sandbox, f"{function}:due") is not None


@pytest.mark.parametrize(("function", "stays"), [("dynamodb", "older"), ("versioned", "newer")])
def test_an_older_value_that_comes_late(sandbox: Sandbox, function: str, stays: str) -> None:
    """Without a deadline it replaces the newer one in batch mode; versions refuse it, after a delete too."""
    key, gone = f"{function}:late", f"{function}:gone"
    for version, body in ((20, "newer"), (10, "older")):
        records = [record(0, key, body), record(1, gone, None if body == "newer" else body)]
        answer = invoke(sandbox, {"records": [one | {"version": version} for one in records]}, function)
        assert answer == ("", {"batchItemFailures": []})
    assert body_of(sandbox, key) == stays
    assert body_of(sandbox, gone) == (None if stays == "newer" else "older")


def test_a_large_versioned_batch(sandbox: Sandbox) -> None:
    """Several threads write a batch; each record once, the poisoned one alone is named."""
    records = [record(n, f"many:{n}") | {"version": 5} for n in range(200)]
    records[77]["version"] = 0
    answer = invoke(sandbox, {"records": records}, "versioned")
    assert [one["itemIdentifier"] for one in answer[1]["batchItemFailures"]] == ["77"]
    items = sandbox.dynamodb_client().scan(TableName=sandbox.table)["Items"]
    written = {item["id"]["S"] for item in items if item.get("version") == {"N": "5"}}
    assert written == {f"many:{n}" for n in range(200)} - {"many:77"}


def test_the_check_of_a_versioned_function(sandbox: Sandbox) -> None:
    """An empty batch is answered and leaves nothing; the original's single record is refused with the remedy."""
    before = sandbox.dynamodb_client().scan(TableName=sandbox.table, Select="COUNT")["Count"]
    promise = {"batchItemFailures": [], "refusesOlderVersions": True}
    assert invoke(sandbox, {"records": []}, "versioned") == ("", promise)
    assert sandbox.dynamodb_client().scan(TableName=sandbox.table, Select="COUNT")["Count"] == before
    error, answer = invoke(sandbox, {"id": "k", "obj_name": "k", "body": "{}"}, "versioned")
    assert error
    assert (answer["errorType"], "needs batches" in answer["errorMessage"]) == ("SetupError", True)


def test_a_table_that_does_not_exist_is_one_clear_error() -> None:
    """The function fails with the table's name and the remedy."""
    spec = FunctionSpec("dynamodb", "lambdas.dynamodb.handler:handler", environment={"DYNAMO_TABLE": "absent"})
    with Sandbox(functions=[spec]) as stack:
        error, answer = invoke(stack, {"records": [record(0, "k")]})
    assert error
    assert "no table absent" in answer["errorMessage"]
    assert "DYNAMO_TABLE" in answer["errorMessage"]
