"""Before the start: does each function exist, and may it be invoked?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from engine.aws.access import make_client, region_of
from engine.aws.credentials import aws_session
from engine.aws.wire import EXPECTED, concerns_all, hint_of, passes
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.answers import REQUEST_TIMEOUT, hint_for, short
from engine.delivery.targets.lambda_ import WHERE
from engine.errors import Problem

_CHECK_TIMEOUT_MS_MAX = 10_000
_PASSING = frozenset({REQUEST_TIMEOUT, 409, 429})
"""Answers, besides 5xx, that may change: too slow, just created or updated, throttled."""


def check_functions(
    functions: Iterable[tuple[str, str]], aws: AwsSettings, delivery: DeliverySettings
) -> list[Problem]:
    """Ask for each (place, function) whether it exists and may be invoked, without running it.

    A function is asked for once, however many places name it; an endpoint that can't be reached is not retried.
    """
    check = _Check(aws, delivery)
    found = [(place, check.problem_with(function)) for place, function in functions]
    return [replace(problem, place=place) for place, problem in found if problem]


class _Check:
    """Asks with boto3's client: this is not a hot path. Its problems have no place yet."""

    def __init__(self, aws: AwsSettings, delivery: DeliverySettings) -> None:
        self._aws = aws
        self._timeouts = {
            "connect_timeout": delivery.connect_timeout_ms / 1_000,
            "read_timeout": min(delivery.invoke_timeout_ms, _CHECK_TIMEOUT_MS_MAX) / 1_000,
        }
        self._clients: dict[str, Any] = {}
        self._answers: dict[str, Problem | None] = {}
        self._regions_out: dict[str, Problem] = {}

    def problem_with(self, function: str) -> Problem | None:
        """Return what keeps the function from being invoked, None if nothing does."""
        if function not in self._answers:
            self._answers[function] = self._ask(function)
        return self._answers[function]

    def _ask(self, function: str) -> Problem | None:
        region = region_of(function, self._aws)
        if region in self._regions_out:
            return self._regions_out[region]
        try:
            if region not in self._clients:
                self._clients[region] = make_client(aws_session(), region, self._aws, **self._timeouts)
            # Needs the right to invoke, like the invocation itself, and runs nothing.
            self._clients[region].invoke(FunctionName=function, InvocationType="DryRun")
        except ClientError as error:
            return _refusal(function, self._clients[region], error)
        except EXPECTED as error:
            what, why, hint = f"function {function} can't be invoked", short(str(error)), hint_of(error, WHERE)
            if not concerns_all(error):
                return Problem("", f"{what}: {why}", hint or hint_for(""), passes(error))
            what = "Lambda can't be asked for functions"
            self._regions_out[region] = Problem("", f"{what}: {why}", hint or hint_for(""), passes(error))
            return self._regions_out[region]
        return None


def _refusal(function: str, client: Any, error: Any) -> Problem:
    code = error.response.get("Error", {}).get("Code", "")
    where = f"{client.meta.region_name} at {client.meta.endpoint_url}"
    if code == "ResourceNotFoundException":
        return Problem("", f"no such function: {function}, in {where}", hint_for(code))
    if code == "AccessDeniedException":
        return Problem("", f"not allowed to invoke {function} in {where}", hint_for(code))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_passing = status >= 500 or status in _PASSING
    text = short(f"{code}: {error.response.get('Error', {}).get('Message', '')}")
    hint = "it is retried" if is_passing else hint_for(code)
    return Problem("", f"function {function} can't be invoked: {text}", hint, is_passing)
