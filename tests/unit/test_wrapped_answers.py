from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.targets.answers import batch_answer
from engine.delivery.targets.make import make_target
from engine.model import Failure
from tests.faulty_service import answers, serving

FAILED = {"batchItemFailures": [{"itemIdentifier": "3"}]}
TEXT = orjson.dumps(FAILED).decode()


@pytest.mark.parametrize(
    "answer",
    [
        TEXT,
        orjson.dumps(TEXT).decode(),
        {"statusCode": 200, "body": TEXT},
        {"statusCode": 200, "body": FAILED},
        {"statusCode": 500, "body": TEXT},
        {"statusCode": 200, "isBase64Encoded": True, "body": base64.b64encode(TEXT.encode()).decode()},
        orjson.dumps({"statusCode": 200, "body": TEXT}).decode(),
    ],
)
def test_failures_in_a_wrapping_are_read(answer: Any) -> None:
    """Records that a function names as failed come again, however it wrapped their names, and it is told so."""
    outcome = batch_answer(orjson.dumps(answer))
    assert (outcome.failure, outcome.failed_ids) == (Failure.ITEMS, ("3",))
    assert "AWS does not read it" in outcome.remark


@pytest.mark.parametrize("answer", ["{'batchItemFailures': []}", {"statusCode": 200, "body": "batchItemFailures: 3"}])
def test_failures_that_nobody_can_read_fail_the_batch(answer: Any) -> None:
    """A text that names failed records, but is not JSON, settles none."""
    outcome = batch_answer(orjson.dumps(answer))
    assert outcome.failure is Failure.BAD_ANSWER
    assert "is not JSON" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (FAILED | {"batchItemFailures": []}, ""),
        ("Hello from Lambda!", ""),
        ({"statusCode": 200, "body": '"Hello from Lambda!"'}, ""),
        ({"statusCode": 200, "body": {"body": {"body": {"body": {"body": FAILED}}}}}, ""),
        (None, ""),
        ([FAILED], ""),
        ('{"batchItemFailures":[]}', "AWS does not read it"),
        ({"statusCode": 500, "body": "down"}, "statusCode 500"),
    ],
)
def test_other_answers_are_success(answer: Any, words: str) -> None:
    """An answer that names nothing is success, as in AWS; one that looks like trouble is remarked."""
    outcome = batch_answer(orjson.dumps(answer))
    assert outcome.failure is Failure.NONE
    assert words in outcome.remark
    assert bool(outcome.remark) is bool(words)


def test_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A route's target warns at the first such answer, not at each."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with serving(answers(200, orjson.dumps(TEXT), "Connection: close")) as port, capture_logs() as logs:
        aws = AwsSettings("eu-west-1", f"http://127.0.0.1:{port}")
        one = make_target(RouteSettings("carts", "f"), aws, DeliverySettings())
        assert [one.invoke(b'{"records":[]}').failed_ids for _ in range(3)] == [("3",)] * 3
        one.close()
    (line,) = logs
    assert (line["event"], line["log_level"], line["route"]) == ("answer_misplaced", "warning", "carts")
