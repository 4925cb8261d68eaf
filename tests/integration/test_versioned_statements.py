"""What the statements of versioned writes mean: to the embedded DynamoDB, and to DynamoDB Local where one runs.

Name its endpoint in DYNAMODB_LOCAL_ENDPOINT to ask it too; both have to answer alike.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from engine.sandbox import aws
from engine.sandbox.dynamodb import DynamoDbServer
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.statements import Statements

TABLE = "statements"
STATEMENTS = Statements(Settings(TABLE, write_mode="versioned", key_attribute='i"d', version_attribute="v'n"))
LOCAL = os.environ.get("DYNAMODB_LOCAL_ENDPOINT", "")


@pytest.fixture(scope="module", params=["embedded", "local"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "local":
        if not LOCAL:
            pytest.skip("DYNAMODB_LOCAL_ENDPOINT is not set")
        yield made(aws.client("dynamodb", LOCAL))
        return
    with DynamoDbServer() as server:
        yield made(server.client())


def made(client: Any) -> Any:
    if TABLE in client.list_tables()["TableNames"]:
        client.delete_table(TableName=TABLE)
    client.create_table(
        TableName=TABLE,
        AttributeDefinitions=[{"AttributeName": 'i"d', "AttributeType": "S"}],
        KeySchema=[{"AttributeName": 'i"d', "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return client


def item(key: str, version: int, **more: Any) -> Any:
    return {'i"d': {"S": key}, **more, "v'n": {"N": str(version)}}


def on_the_wire(value: Any) -> Any:
    """Return boto3's form of a value as the function has it: bytes are base64 there."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return {name: on_the_wire(one) for name, one in value.items()} if isinstance(value, dict) else value


def by_boto3(statement: str) -> Any:
    """Return a statement in boto3's form."""
    return json.loads(statement, object_hook=lambda one: {"B": base64.b64decode(one["B"])} if "B" in one else one)


def update(item: Any) -> Any:
    return by_boto3(STATEMENTS.update(on_the_wire(item)))


def insert(item: Any) -> Any:
    return by_boto3(STATEMENTS.insert(on_the_wire(item)))


def run(client: Any, *statements: Any) -> list[str]:
    """Return the error's code of each statement, "" where it took effect."""
    answer = client.batch_execute_statement(Statements=list(statements))
    return [one.get("Error", {}).get("Code", "") for one in answer["Responses"]]


def held(client: Any, key: str) -> Any:
    return client.get_item(TableName=TABLE, Key={'i"d': {"S": key}}, ConsistentRead=True).get("Item")


def test_an_insert_wants_no_item(client: Any) -> None:
    """It makes an item where there is none, and changes none that is there."""
    first, second = item("insert", 5, body={"S": "x"}), item("insert", 6, body={"S": "y"})
    assert run(client, insert(first)) == [""]
    assert run(client, insert(second)) == ["DuplicateItem"]
    assert held(client, "insert") == first


def test_an_update_wants_an_older_item(client: Any) -> None:
    """It makes no item, and refuses its own version and newer ones, each statement for itself."""
    old, new = item("update", 5, body={"S": "x"}), item("update", 6, body={"S": "y"})
    assert run(client, update(old)) == ["ConditionalCheckFailed"]
    assert held(client, "update") is None
    run(client, insert(old))
    statements = [update(new), update(item("nobody", 1, body={"S": "z"}))]
    assert run(client, *statements) == ["", "ConditionalCheckFailed"]
    for stale in (old, item("update", 6, body={"S": "z"})):
        assert run(client, update(stale)) == ["ConditionalCheckFailed"]
    assert held(client, "update") == new


def test_an_update_replaces_all_that_the_function_writes(client: Any) -> None:
    """A tombstone loses the value, a value the tombstone and the time to live."""
    value = item("all", 1, expires_at={"N": "9"}, obj_name={"S": "all"}, body={"S": "x"}, body_encoding={"S": "base64"})
    tombstone = item("all", 2, deleted_at_ms={"N": "1"}, expires_at={"N": "8"})
    again = item("all", 3, obj_name={"S": "all"}, body={"M": {"f": {"B": b"\xff"}}})
    assert run(client, insert(value)) == [""]
    for replacement in (tombstone, again):
        assert run(client, update(replacement)) == [""]
        assert held(client, "all") == replacement


@pytest.mark.parametrize("before", [{}, {"v'n": {"S": "a field"}}])
def test_what_has_no_version_is_older_than_all(client: Any, before: Any) -> None:
    """Items from before writes were versioned are replaced."""
    client.put_item(TableName=TABLE, Item={'i"d': {"S": "before"}, **before})
    after = item("before", 1, body={"S": "x"})
    assert run(client, update(after)) == [""]
    assert held(client, "before") == after


def test_a_refused_key_fails_alone(client: Any) -> None:
    """An error is its statement's own: the neighbours take effect."""
    assert run(client, insert(item("", 1)), insert(item("own", 1))) == ["ValidationError", ""]


def test_what_an_update_may_not_say_is_refused(client: Any) -> None:
    """The key is not changed, parameters are counted, and an item has its size."""
    run(client, insert(item("limits", 1, body={"S": "x"})))
    newer = update(item("limits", 2, body={"S": "y"}))
    text = newer["Statement"]
    moved = {**newer, "Statement": text.replace('SET "body"=?', 'SET "i""d"=?', 1)}
    short = {**newer, "Parameters": newer["Parameters"][:-1]}
    large = update(item("limits", 2, body={"S": "y" * 420_000}))
    number = {**newer, "Parameters": [*newer["Parameters"][:-2], {"N": "1"}, newer["Parameters"][-1]]}
    for statement in (moved, short, large, number):
        assert run(client, statement) == ["ValidationError"]
    assert held(client, "limits") == item("limits", 1, body={"S": "x"})


def test_an_update_keeps_what_it_does_not_name(client: Any) -> None:
    """Attributes of others stay, of every type, and as they were."""
    others = {
        "n": {"N": "1.50"}, "s": {"SS": ["a", "b"]}, "l": {"L": [{"S": "x"}, {"M": {"k": {"NULL": True}}}]},
        "b": {"B": b"\x00\xff"}, "t": {"BOOL": False}, "e": {"M": {}},
    }  # fmt: skip
    client.put_item(TableName=TABLE, Item=item("others", 1, body={"S": "x"}, **others))
    assert run(client, update(item("others", 2, body={"S": "y"}))) == [""]
    kept = held(client, "others")
    kept["s"]["SS"].sort()
    kept["n"]["N"] = f"{float(kept['n']['N']):.2f}"
    assert kept == item("others", 2, body={"S": "y"}, **others)
