"""What happens to invocations: refused, lost, late, slow, answered with nonsense."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from engine.sandbox.functions.runtime import FunctionSpec
from tests.chaos.proxies.http_proxy import (
    Action,
    Answer,
    DelayedEffect,
    Pass,
    PassThenReset,
    Request,
    Reset,
    pass_all,
)
from tests.chaos.registry import fault
from tests.chaos.rig import Run

REASONS = (
    "ConcurrentInvocationLimitExceeded",
    "ReservedFunctionConcurrentInvocationLimitExceeded",
    "FunctionInvocationRateLimitExceeded",
    "CallerRateLimitExceeded",
)
OUTAGES = {
    "ServiceException": Answer(
        500, {"x-amzn-ErrorType": "ServiceException"}, b'{"Type":"Service","message":"Internal error"}'
    ),
    "EC2ThrottledException": Answer(502, {"x-amzn-ErrorType": "EC2ThrottledException"}, b'{"Type":"Server"}'),
    "bad gateway": Answer(502, {"Content-Type": "text/html"}, b"<html><h1>502 Bad Gateway</h1></html>"),
    "unavailable": Answer(503, {"Retry-After": "1"}, b"Service Unavailable"),
    "gateway timeout": Answer(504),
}
NONSENSE = {
    "not JSON": Answer(200, {}, b"\x00\xff garbage"),
    "half of a JSON": Answer(200, {}, b'{"batchItemFailures": [{"itemIdentif'),
    "an unknown identifier": Answer(200, {}, b'{"batchItemFailures": [{"itemIdentifier": "nobody"}]}'),
    "an identifier out of range": Answer(200, {}, b'{"batchItemFailures": [{"itemIdentifier": "1000000"}]}'),
    "an empty identifier": Answer(200, {}, b'{"batchItemFailures": [{"itemIdentifier": ""}]}'),
    "no identifier": Answer(200, {}, b'{"batchItemFailures": [{}]}'),
    "no list": Answer(200, {}, b'{"batchItemFailures": "none"}'),
    "a function error": Answer(
        200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorType": "Error", "errorMessage": "no reason"}'
    ),
    "cut off in its middle": Answer(200, {}, b'{"batchItemFailures": []}', cut=12),
    "cut off before its body": Answer(200, {}, b'{"batchItemFailures": []}', cut=0),
}
LATE_KEYS = 60
ENDED_S = 3.5


def is_invocation(request: Request) -> bool:
    """Tell an invocation that carries records from all else that is asked of Lambda."""
    return request.method == "POST" and "/invocations" in request.path and request.body[:13] != b'{"records":[]'


def records_in(request: Request) -> list[dict[str, Any]]:
    """Return the records of an invocation."""
    records: list[dict[str, Any]] = json.loads(request.body)["records"]
    return records


class Harm:
    """A rule that does something to a share of the invocations, and counts what it did by name.

    The names are taken in turn, so that each is among them soon.
    """

    def __init__(self, actions: dict[str, Action], share: float, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._actions = list(actions.items())
        self._share = share
        self._rng = rng

    def __call__(self, request: Request) -> Action:
        if not is_invocation(request) or self._rng.random() >= self._share:
            return Pass()
        name, action = self._actions[self.done.total() % len(self._actions)]
        self.done[name] += 1
        return action

    def __str__(self) -> str:
        return ", ".join(f"{name}: {count}" for name, count in self.done.items())


def harm(run: Run, actions: dict[str, Action], *, share: float = 1.0, seconds: float = 3.0, each: int = 2) -> str:
    """Do this to invocations for so long, and on until each was done so often; return what was done."""
    rule = Harm(actions, share, random.Random(run.rng.random()))
    run.lambda_proxy.rule = rule
    run.sleep(seconds)
    run.wait(lambda: all(rule.done[name] >= each for name in actions), f"each {each} times: {list(actions)}")
    run.lambda_proxy.rule = pass_all
    return str(rule)


@fault("function: throttled, for each of the four reasons", proxies=("lambda",))
def throttled(run: Run) -> str:
    actions: dict[str, Action] = {}
    for number, reason in enumerate(REASONS):
        headers = {"x-amzn-ErrorType": "TooManyRequestsException"} | ({"Retry-After": "1"} if number == 1 else {})
        body = json.dumps({"Reason": reason, "Type": "User", "message": "Rate Exceeded."}).encode()
        actions[reason] = Answer(429, headers, body)
    said = harm(run, actions)
    run.wait(lambda: run.engine.totals()["invocations_throttled"], "the engine counts it as a throttle")
    return said


@fault("function: 5xx", proxies=("lambda",))
def server_errors(run: Run) -> str:
    return harm(run, dict(OUTAGES))


@fault("function: answers that mean nothing", proxies=("lambda",))
def nonsense(run: Run) -> str:
    """None of these invocations had an effect: to take one for a success is to lose its records."""
    return harm(run, dict(NONSENSE), share=0.7)


@fault("function: connections reset", proxies=("lambda",))
def resets(run: Run) -> str:
    return harm(run, {"without effect": Reset(), "after the effect": PassThenReset()}, share=0.5, seconds=4.0, each=4)


@fault("function: late effects of lost invocations, by chance", proxies=("lambda",))
def late_by_chance(run: Run) -> str:
    """Before the deadline and after it, in the middle of everything else."""
    late: dict[str, Action] = {f"{seconds:g} s late": DelayedEffect(seconds) for seconds in (0.3, 1.0, 1.7, 2.5, 4.0)}
    said = harm(run, late, share=0.3, seconds=4.0, each=1)
    run.writer.pause()
    return with_effects(run, said)


@fault("function: the late effect of a lost invocation, before its deadline", proxies=("lambda",), settle_s=1.5)
def late_within(run: Run) -> str:
    """Whoever delivers newer values before that sees them overwritten."""
    return late_then_newer(run, 1.0)


@fault("function: the late effect of a lost invocation, after its deadline", proxies=("lambda",), settle_s=1.5)
def late_beyond(run: Run) -> str:
    """The newer values are there by then, and the function must not write the old ones."""
    return late_then_newer(run, 4.0)


def late_then_newer(run: Run, seconds: float) -> str:
    """Write keys, make their invocations take effect only later, and write newer values, for good, at once."""
    run.writer.pause()
    run.sleep(1.5)  # the figures are up to a second old
    run.wait(lambda: is_idle(run), "what was written before is delivered")
    keys = run.rng.sample(run.writer.keys, LATE_KEYS)
    names = {key.decode() for key in keys}
    held: set[str] = set()

    def rule(request: Request) -> Action:
        if not is_invocation(request) or not (names - held):
            return Pass()
        held.update(record["id"] for record in records_in(request))
        return DelayedEffect(seconds)

    run.lambda_proxy.rule = rule
    run.writer.write_now([run.writer.change(key) for key in keys])
    run.wait(lambda: not names - held, "all these keys are in invocations that are lost")
    run.writer.write_now([run.writer.change(key) for key in keys])
    run.healed()
    said = f"{run.lambda_proxy.struck['DelayedEffect']} invocations lost that carry {len(held)} keys"
    said = with_effects(run, said)
    run.lambda_proxy.rule = pass_all
    return said


def is_idle(run: Run) -> bool:
    """Tell whether the engine has nothing to do, as far as it says."""
    totals = run.engine.totals()
    return not (totals["dirty_keys"] or totals["keys_waiting"] or totals["keys_in_flight"])


def with_effects(run: Run, said: str) -> str:
    """Wait until all delayed invocations have reached the function."""
    proxy = run.lambda_proxy
    run.wait(lambda: not proxy.effects_waiting, "the late effects")
    reached = sum(status == 200 for status in proxy.effects)
    return f"{said}; {reached} reached the function late" if reached else ""


@fault("function: gone for a minute", proxies=("lambda",), wait_s=90.0)
def gone(run: Run) -> str:
    """A quick run (QUICK=1) makes it eight seconds."""
    seconds = 8.0 if os.environ.get("QUICK", "") not in {"", "0"} else 60.0
    before = run.engine.totals()["invocations_failed"]
    run.lambda_proxy.refuse(True)
    run.sleep(seconds)
    run.lambda_proxy.refuse(False)
    failed = run.engine.totals()["invocations_failed"] - before
    return f"connections refused for {seconds:g} s, {failed} invocations failed" if failed else ""


def spec(handler: str) -> FunctionSpec:
    """Return a function of `tests.chaos.handlers` in the place of the rig's."""
    return FunctionSpec("dynamodb", f"tests.chaos.handlers:{handler}", timeout_s=ENDED_S)


def journalled(run: Run, matches: Callable[[dict[str, Any]], bool]) -> int:
    """Return how many invocations of this kind there were so far."""
    return sum(matches(one) for one in run.invocations())


@fault("function: slow, and sometimes hanging", functions=(spec("slow"),), settle_s=1.5)
def slow(run: Run) -> str:
    def lasted(one: dict[str, Any]) -> float:
        return float(one["ended_ns"] - one["started_ns"]) / 1e9

    run.wait(lambda: journalled(run, lambda one: lasted(one) > 2.0) >= 3, "three slow invocations")
    run.wait(lambda: journalled(run, lambda one: lasted(one) >= ENDED_S), "one that hung", 40.0)
    counted = journalled(run, lambda one: lasted(one) > 0.2)
    hung = journalled(run, lambda one: lasted(one) >= ENDED_S)
    return f"{counted} slow invocations, {hung} of them ended by the runtime"


@fault("function: ends or raises in the middle of its batch", functions=(spec("breaking"),))
def breaking(run: Run) -> str:
    run.sleep(2.0)
    run.wait(lambda: journalled(run, lambda one: bool(one["error"])) >= 5, "five broken invocations")
    return f"errors of the function: {dict(Counter(one['error'] for one in run.invocations() if one['error']))}"
