"""The functions: their own time limits, and how much concurrency they have left, as far as we may ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from engine.clock import now_ms
from engine.config import RouteSettings, Settings
from engine.supervision.doctor.figures import about_clock
from engine.supervision.errands.findings import Finding, Verdict, finding
from engine.text import shown

_TIMEOUT_S = 5
RIGHTS = {
    "get_function_configuration": "lambda:GetFunctionConfiguration",
    "get_function_concurrency": "lambda:GetFunctionConcurrency",
}
"""What is asked of Lambda here, as boto3 names it → the right to it. The roles in ``config/`` grant each."""


def function_findings(settings: Settings, routes: Iterable[RouteSettings]) -> list[Finding]:
    """Return what each function's own settings mean; what may not be asked is reported once, and is not a fault."""
    from botocore.exceptions import ClientError

    from engine.aws.access import make_client, region_of
    from engine.aws.credentials import aws_session
    from engine.aws.target_arns import parse_target_arn
    from engine.aws.wire import EXPECTED

    found: list[Finding] = []
    unknown: list[str] = []
    why = ""
    by_function: dict[str, list[RouteSettings]] = {}
    for route in routes:
        if parse_target_arn(route.function) is None:
            by_function.setdefault(route.function, []).append(route)
    for function, some in by_function.items():
        try:
            region = region_of(function, settings.aws)
            options = {"connect_timeout": _TIMEOUT_S, "read_timeout": _TIMEOUT_S}
            client = make_client(aws_session(), region, settings.aws, **options)
            answer = client.get_function_configuration(FunctionName=function)
            found += about_function(function, answer, settings, some)
            found += about_date(answer, settings)
            found += about_concurrency(function, _reserved(client, function), settings, some)
        except ClientError as error:
            unknown.append(function)
            code = str(error.response.get("Error", {}).get("Code", ""))
            why = f"to look at them, grant {' and '.join(RIGHTS.values())}" if "AccessDenied" in code else code
        except EXPECTED as error:
            # An endpoint that can't be reached for one function can't be for the others.
            unknown.append(function)
            why = shown(str(error))[:200]
            break
    if unknown:
        told = f"time limit and concurrency of {', '.join(unknown)} are unknown"
        found.append(finding(Verdict.OK, "functions", f"{told} ({why})" if why else told))
    return found


def _reserved(client: Any, function: str) -> int | None:
    """Return the function's reserved concurrency; None if it has none of its own."""
    answer = client.get_function_concurrency(FunctionName=function)
    reserved = answer.get("ReservedConcurrentExecutions")
    return None if reserved is None else int(reserved)


def about_function(
    function: str, answer: Mapping[str, Any], settings: Settings, routes: Iterable[RouteSettings]
) -> list[Finding]:
    """Return what the function's own time limit means for deadlines and retries."""
    timeout_ms = int(answer.get("Timeout", 0)) * 1_000
    place = _place(routes)
    if not timeout_ms:
        return []
    invoke_ms = settings.delivery.invoke_timeout_ms
    told = f"{function} may run for {timeout_ms // 1_000} s"
    if timeout_ms > invoke_ms:
        what = f"{told}, longer than the engine waits (delivery.invoke_timeout_ms = {invoke_ms:,})"
        hint = f"set delivery.invoke_timeout_ms to {timeout_ms + 5_000:_}, or the function's timeout below it"
        return [finding(Verdict.NOTE, place, f"{what}: its late effects could overlap with the retry", hint)]
    return [finding(Verdict.OK, place, f"{told}; the engine waits for {invoke_ms / 1_000:g} s")]


def about_concurrency(
    function: str, reserved: int | None, settings: Settings, routes: Iterable[RouteSettings]
) -> list[Finding]:
    """Return whether the function may run as often in parallel as the engine invokes it."""
    some = list(routes)
    wanted = settings.delivery.invokers * sum(route.parallelization_factor for route in some)
    if reserved is None:
        told = f"{function}: no concurrency is reserved; the engine invokes it at most {wanted:,} times at once"
        return [finding(Verdict.OK, _place(some), told)]
    told = f"{function}: {reserved:,} reserved concurrency; the engine invokes it at most {wanted:,} times at once"
    if reserved >= wanted:
        return [finding(Verdict.OK, _place(some), told)]
    hint = f"aws lambda put-function-concurrency --function-name {function} --reserved-concurrent-executions {wanted}"
    return [finding(Verdict.NOTE, _place(some), f"{told}: the rest is throttled", hint)]


def about_date(answer: Mapping[str, Any], settings: Settings) -> list[Finding]:
    """Return how far the service's clock is from this host's: deadlines are set by it."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    parsed = parsedate_tz(headers.get("date", ""))
    if parsed is None:
        return []
    # A date is a whole second: half of one is its mean error.
    ahead_ms = int(mktime_tz(parsed)) * 1_000 + 500 - now_ms()
    return [about_clock(ahead_ms, "AWS", "functions", settings.delivery.deadline_margin_ms)]


def _place(routes: Iterable[RouteSettings]) -> str:
    names = [repr(route.name) for route in routes]
    return f"route{'s' if len(names) > 1 else ''} {', '.join(names)}"
