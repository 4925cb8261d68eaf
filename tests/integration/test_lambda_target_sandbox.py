from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.check import check_functions
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime

HANDLERS = """
import time

def items(event, context):
    return {"batchItemFailures": [{"itemIdentifier": r["record_id"]} for r in event["records"] if r["id"] == "bad"]}

def fail(event, context):
    raise KeyError("missing")

def stall(event, context):
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaRuntime]:
    folder: Path = tmp_path_factory.mktemp("handlers")
    (folder / "target_handlers.py").write_text(HANDLERS)
    functions = [
        FunctionSpec("accept", "accept"),
        FunctionSpec("items", "target_handlers.items"),
        FunctionSpec("fail", "target_handlers.fail"),
        FunctionSpec("stall", "target_handlers.stall", timeout_s=0.5),
    ]
    with LambdaRuntime(functions, environment={"PYTHONPATH": str(folder)}) as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("function", "payload", "failure", "words"),
    [
        ("accept", b'{"records":[]}', Failure.NONE, ""),
        ("items", b'{"records":[{"record_id":"0","id":"good"}]}', Failure.NONE, ""),
        ("items", b'{"records":[{"record_id":"0","id":"bad"}]}', Failure.ITEMS, "1 record"),
        ("fail", b'{"records":[]}', Failure.FUNCTION_ERROR, "KeyError"),
        ("stall", b'{"records":[]}', Failure.TIMEOUT, "timed out"),
        ("accept", b'"' + b"x" * 6_300_000 + b'"', Failure.OVERSIZE, "413"),
        ("absent", b"{}", Failure.REFUSED, "no function absent"),
        ("arn:aws:lambda:us-east-1:123456789012:function:accept:live", b"{}", Failure.NONE, ""),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_runtime_that_speaks_the_invoke_api(
    runtime: LambdaRuntime, monkeypatch: pytest.MonkeyPatch, function: str, payload: bytes, failure: Failure, words: str
):
    """What a real handler does, and what the runtime refuses, comes out as the failure that it is."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "sandbox")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sandbox")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    aws = AwsSettings(region="us-east-1", lambda_endpoint_url=runtime.endpoint)
    target = LambdaTarget(function, aws, DeliverySettings(), report_item_failures=True, connections_max=1)
    outcome = target.invoke(payload)
    target.close()
    assert outcome.failure is failure, outcome
    assert words in outcome.reason
    problems = check_functions([("route", function)], aws, DeliverySettings())
    assert [problem.place for problem in problems] == (["route"] if failure is Failure.REFUSED else [])
