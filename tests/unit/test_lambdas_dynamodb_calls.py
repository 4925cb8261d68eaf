"""What a DynamoDB answer says was written: by whatever name it calls the table, and only where it adds up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lambdas.contract import Deadline
from lambdas.dynamodb.calls import Write
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.versioned import VersionedWriter
from lambdas.dynamodb.writer import BatchWriter
from lambdas.repeats import TimeLeft

ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/carts"


class Answers:
    """Answers each call by the next of these, and the rest by the last."""

    region = "eu-west-1"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        self.requests.append(json.loads(body))
        answer: dict[str, Any] = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer


def write(service: Answers, settings: Settings, *keys: str) -> dict[str, str]:
    make = VersionedWriter if settings.is_versioned else BatchWriter
    writes = [Write(key, {"id": {"S": key}, "version": {"N": "1"}}, 10) for key in keys]
    writer = make(service, settings, sleep=lambda _: None)
    return writer.write(writes, TimeLeft(lambda: 60_000, Deadline(), lambda: 0))


def put(key: str) -> dict[str, Any]:
    return {"PutRequest": {"Item": {"id": {"S": key}}}}


@pytest.mark.parametrize("name", ["carts", ARN, "eu-west-1/carts"])
def test_what_was_left_is_read_by_any_name(name: str) -> None:
    """A table that is named by its ARN may be called otherwise in the answer: its items are left all the same."""
    service = Answers({"UnprocessedItems": {name: [put("b")]}}, {"UnprocessedItems": {}})
    assert write(service, Settings(ARN), "a", "b") == {}
    assert [len(request["RequestItems"][ARN]) for request in service.requests] == [2, 1]
    assert set(write(Answers({"UnprocessedItems": {name: [put("b")]}}), Settings(ARN), "a", "b")) == {"b"}


@pytest.mark.parametrize(
    "unprocessed",
    [
        {"carts": [put("c")]},
        {"carts": [put("a"), put("a")]},
        {"carts": [{}]},
        {"carts": [{"PutRequest": {"Item": {}}}]},
        {"carts": put("a")},
        {"carts": None},
        [put("a")],
        None,
    ],
)
def test_an_answer_that_does_not_add_up_is_none(unprocessed: Any) -> None:
    """Where it names what was not in the call, or nothing that can be read, nothing counts as written."""
    settings = Settings("carts", late_effect_ms=0)
    service = Answers({"UnprocessedItems": unprocessed}, {"UnprocessedItems": {}})
    assert write(service, settings, "a", "b") == {}
    assert [len(request["RequestItems"]["carts"]) for request in service.requests] == [2, 2]
    assert set(write(Answers({"UnprocessedItems": unprocessed}), settings, "a", "b")) == {"a", "b"}
    assert set(write(Answers({}), settings, "a", "b")) == {"a", "b"}


@pytest.mark.parametrize("responses", [None, [], [{}], [{}, {}, {}], [{}, None], {"0": {}, "1": {}}, "ok"])
def test_statements_that_are_not_answered_one_by_one(responses: Any) -> None:
    """Each statement has its answer, or none of them counts as executed."""
    settings = Settings("carts", write_mode="versioned")
    assert set(write(Answers({"Responses": responses}), settings, "a", "b")) == {"a", "b"}
    assert write(Answers({"Responses": [{}, {}]}), settings, "a", "b") == {}
