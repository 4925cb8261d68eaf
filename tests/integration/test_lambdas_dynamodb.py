from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from engine.sandbox.stack import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


def invoke(sandbox: Sandbox, event: Any, function: str = "dynamodb") -> tuple[str, Any]:
    answer = sandbox.lambda_client().invoke(FunctionName=function, Payload=orjson.dumps(event))
    return answer.get("FunctionError", ""), orjson.loads(answer["Payload"].read())


def record(number: int, key: str, body: str | None = '{"f":"v"}') -> dict[str, Any]:
    return {"record_id": str(number), "id": key, "obj_name": key, "body": body, "event": "hset", "type": "hash"}


def body_of(sandbox: Sandbox, key: str) -> str | None:
    answer = sandbox.dynamodb_client().get_item(TableName=sandbox.table, Key={"id": {"S": key}})
    return answer["Item"]["body"]["S"] if "Item" in answer else None


def test_a_batch_of_500_with_one_poisoned_record(sandbox: Sandbox) -> None:
    """499 records are in the table; the one that cannot be is named in the answer."""
    records = [record(n, f"batch:{n}") for n in range(500)]
    records[123] = record(123, "batch:123", '"' + "v" * 450_000 + '"')
    error, answer = invoke(sandbox, {"records": records})
    assert error == ""
    assert answer == {"batchItemFailures": [{"itemIdentifier": "123"}]}
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


def test_a_table_that_does_not_exist_is_one_clear_error() -> None:
    """The function fails with the table's name and the remedy."""
    from engine.sandbox.lambda_runtime import FunctionSpec

    spec = FunctionSpec("dynamodb", "lambdas.dynamodb.handler:handler", environment={"DYNAMO_TABLE": "absent"})
    with Sandbox(functions=[spec]) as stack:
        error, answer = invoke(stack, {"records": [record(0, "k")]})
    assert error
    assert "no table absent" in answer["errorMessage"]
    assert "DYNAMO_TABLE" in answer["errorMessage"]
