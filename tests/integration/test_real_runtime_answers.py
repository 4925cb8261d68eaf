"""What a function's ends look like under Lambda's own runtime, as the engine's target takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.check import check_functions
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure
from tests.emulator import CREDENTIALS, emulator, needs_emulator

pytestmark = needs_emulator

WELL = {"do": "well"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulator") / "function.log"


@pytest.fixture(scope="module")
def endpoint(log: Path) -> Iterator[str]:
    with emulator("tests.functions.moody", {"AWS_LAMBDA_FUNCTION_TIMEOUT": "1"}, log) as url:
        yield url


@pytest.fixture
def aws(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> AwsSettings:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return AwsSettings(region="us-east-1", lambda_endpoint_url=endpoint)


@pytest.mark.parametrize(
    ("event", "failure", "words", "is_lost"),
    [
        (WELL, Failure.NONE, "", False),
        ({"do": "well", "failures": [{"itemIdentifier": "0"}]}, Failure.ITEMS, "1 record", False),
        ({"do": "fail"}, Failure.FUNCTION_ERROR, "KeyError: 'missing'", False),
        ({"do": "stall"}, Failure.TIMEOUT, "Task timed out after 1.00 seconds", True),
        ({"do": "exit"}, Failure.SERVICE, "HTTP 502", True),
    ],
    ids=["well", "items", "fail", "stall", "exit"],
)
@pytest.mark.parametrize("report_item_failures", [True, False], ids=["reports", "any answer"])
def test_each_end_is_the_failure_that_it_is(
    aws: AwsSettings, event: dict[str, Any], failure: Failure, words: str, is_lost: bool, report_item_failures: bool
) -> None:
    """No end but the good one counts as success, though the emulator answers 200 to most; the next invocation works."""
    if failure is Failure.ITEMS and not report_item_failures:
        failure, words = Failure.NONE, ""
    target = LambdaTarget(
        "function", aws, DeliverySettings(), report_item_failures=report_item_failures, connections_max=1
    )
    outcome = target.invoke(orjson.dumps(event))
    assert (outcome.failure, outcome.is_lost) == (failure, is_lost)
    assert words in outcome.reason
    assert target.invoke(orjson.dumps(WELL)).failure is Failure.NONE
    target.close()


def test_a_dry_run_runs_nothing(aws: AwsSettings, log: Path) -> None:
    """The engine's question whether the function is there is answered, and its handler is not called."""
    called = log.read_text().count("called with")
    assert check_functions([("here", "function")], aws, DeliverySettings()) == []
    (problem,) = check_functions([("there", "another")], aws, DeliverySettings())
    assert "another" in str(problem)
    assert log.read_text().count("called with") == called
