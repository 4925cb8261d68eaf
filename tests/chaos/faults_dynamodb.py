"""What happens between the function and its table."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.chaos.proxies.http_proxy import (
    Action,
    Answer,
    BlackHole,
    DelayedEffect,
    MangleAnswer,
    Pass,
    PassThenReset,
    Request,
    Reset,
    pass_all,
)
from tests.chaos.registry import fault
from tests.chaos.rig import Run

NAMESPACE = "com.amazonaws.dynamodb.v20120810#"
JSON = {"Content-Type": "application/x-amz-json-1.0"}
WRITES = {"BatchWriteItem", "BatchExecuteStatement", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems"}


def refusal(status: int, code: str, prefix: str = NAMESPACE) -> Answer:
    """Return an error as DynamoDB words it."""
    return Answer(status, JSON, json.dumps({"__type": prefix + code, "message": "as asked for"}).encode())


THROTTLES: dict[str, Action] = {
    "ProvisionedThroughputExceededException": refusal(400, "ProvisionedThroughputExceededException"),
    "ThrottlingException": refusal(400, "ThrottlingException", "com.amazon.coral.availability#"),
    "RequestLimitExceeded": refusal(400, "RequestLimitExceeded"),
}
OUTAGES: dict[str, Action] = {
    "InternalServerError": refusal(500, "InternalServerError"),
    "ServiceUnavailable": refusal(503, "ServiceUnavailable"),
    "a bare 503": Answer(503, {"Content-Type": "text/html"}, b"<html><h1>503</h1></html>"),
}
BROKEN: dict[str, Action] = {
    "reset": Reset(),
    "reset after the effect": PassThenReset(),
    "silent for 1 s, then reset": BlackHole(1.0),
    "cut off": Answer(200, JSON, b'{"UnprocessedItems": {}}', cut=5),
}
"""The answer that is cut off belongs to a batch of which nothing was written: what it left out is not known."""
BROKEN_AFTER = BROKEN | {"cut off": MangleAnswer(lambda answer: dataclasses.replace(answer, cut=len(answer.body) // 2))}
"""A single write that is answered at all was done."""


def operation(request: Request) -> str:
    """Return what is asked for, as ``BatchWriteItem``."""
    return request.headers.get("X-Amz-Target", "").rpartition(".")[2]


class Harm:
    """A rule that does something to a share of the writes, by names in turn, and counts what it did."""

    def __init__(
        self, names: list[str], act: Callable[[str, Request], Action], share: float, rng: random.Random
    ) -> None:
        self.done: Counter[str] = Counter()
        self._names = names
        self._act = act
        self._share = share
        self._rng = rng

    def __call__(self, request: Request) -> Action:
        if operation(request) not in WRITES or self._rng.random() >= self._share:
            return Pass()
        name = self._names[self.done.total() % len(self._names)]
        action = self._act(name, request)
        if not isinstance(action, Pass):
            self.done[name] += 1
        return action


def harm(run: Run, actions: dict[str, Action], *, share: float, seconds: float = 4.0, each: int = 3) -> str:
    """Do this to writes for so long, and on until each was done so often; return what was done."""
    return harm_by(run, list(actions), lambda name, request: actions[name], share=share, seconds=seconds, each=each)


def harm_by(
    run: Run,
    names: list[str],
    act: Callable[[str, Request], Action],
    *,
    share: float,
    seconds: float = 4.0,
    each: int = 3,
) -> str:
    """Do what ``act`` says for a name and a request."""
    rule = Harm(names, act, share, random.Random(run.rng.random()))
    run.dynamo_proxy.rule = rule
    run.sleep(seconds)
    run.wait(lambda: all(rule.done[name] >= each for name in names), f"each {each} times: {names}")
    run.dynamo_proxy.rule = pass_all
    return ", ".join(f"{name}: {count}" for name, count in rule.done.items())


@fault("dynamodb: throttled", proxies=("dynamo",))
def throttled(run: Run) -> str:
    return harm(run, THROTTLES, share=0.6)


@fault("dynamodb: throttled altogether", proxies=("dynamo",))
def throttled_altogether(run: Run) -> str:
    """Until invocations give records back to the engine."""
    said = harm(run, THROTTLES, share=1.0)
    run.wait(lambda: run.engine.totals()["records_retried"], "the function gives records back")
    return f"{said}; {run.engine.totals()['records_retried']} records given back"


@fault("dynamodb: throttled altogether, versioned writes", proxies=("dynamo",), write_mode="versioned")
def throttled_versioned(run: Run) -> str:
    return harm(run, THROTTLES, share=1.0)


@fault("dynamodb: items left unprocessed", proxies=("dynamo",))
def unprocessed(run: Run) -> str:
    """Of a batch only a part is written, at times nothing; the answer names the rest."""
    rng = random.Random(run.rng.random())
    left = Counter[str]()

    def act(name: str, request: Request) -> Action:
        if operation(request) != "BatchWriteItem":
            return Pass()
        wanted = json.loads(request.body)
        ((table, requests),) = wanted["RequestItems"].items()
        rest = rng.sample(requests, len(requests) if name == "all" else rng.randint(1, len(requests)))
        now = [one for one in requests if one not in rest]
        left["items"] += len(rest)
        told = {"UnprocessedItems": {table: rest}}
        if not now:
            return Answer(200, JSON, json.dumps(told).encode())
        return MangleAnswer(
            lambda answer: merged(answer, told), json.dumps(wanted | {"RequestItems": {table: now}}).encode()
        )

    said = harm_by(run, ["some", "all"], act, share=0.7)
    return f"batches of which these were left: {said}; {left['items']} items left"


def merged(answer: Answer, told: dict[str, Any]) -> Answer:
    """Return an answer with more in it; without the checksum, which is of the answer as it was."""
    if answer.status != 200:
        return answer
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "x-amz-crc32"}
    return Answer(answer.status, headers, json.dumps(json.loads(answer.body) | told).encode())


@fault("dynamodb: 5xx", proxies=("dynamo",))
def server_errors(run: Run) -> str:
    return harm(run, OUTAGES, share=0.8)


@fault("dynamodb: connections broken", proxies=("dynamo",))
def broken(run: Run) -> str:
    return harm(run, BROKEN, share=0.5)


@fault("dynamodb: connections broken, versioned writes", proxies=("dynamo",), write_mode="versioned")
def broken_versioned(run: Run) -> str:
    return harm(run, BROKEN_AFTER, share=0.5)


@fault("dynamodb: late effects", proxies=("dynamo",), settle_s=1.5)
def late_batches(run: Run) -> str:
    """A batch that was given up on, and done again, takes effect within the margin: the function outlives it."""
    return late_by(run, 0.2, 0.5, 0.8)


@fault("dynamodb: late effects, versioned writes", proxies=("dynamo",), write_mode="versioned", settle_s=1.5)
def late(run: Run) -> str:
    """A write that was given up on, and done again, takes effect seconds later: only versions help."""
    return late_by(run, 0.2, 1.0, 3.0)


def late_by(run: Run, *waits_s: float) -> str:
    """Have calls take effect so late, answered or not; return how often each did."""
    actions: dict[str, Action] = {f"{seconds:g} s late": DelayedEffect(seconds) for seconds in waits_s}
    said = harm(run, actions, share=0.3)
    run.writer.pause()
    proxy = run.dynamo_proxy
    run.wait(lambda: not proxy.effects_waiting, "the late effects")
    reached = Counter(proxy.effects)
    return f"{said}; answers to those: {dict(reached)}" if reached[200] + reached[400] else ""


@fault("dynamodb: gone for seconds", proxies=("dynamo",))
def gone(run: Run) -> str:
    run.dynamo_proxy.refuse(True)
    before = run.engine.totals()["records_retried"]
    run.sleep(run.rng.uniform(4.0, 6.0))
    retried = run.wait(lambda: run.engine.totals()["records_retried"] - before, "the function gives records back")
    run.dynamo_proxy.refuse(False)
    return f"connections refused, {retried} records given back"
