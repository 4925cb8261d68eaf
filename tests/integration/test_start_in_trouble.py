"""A start meets what passes: the engine starts, says so, and delivers once it has passed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import Settings, SupervisionSettings
from engine.supervision.errands.aws_findings import AwsLook, Seen
from engine.supervision.errands.findings import Verdict, finding
from tests.chaos.proxies.http_proxy import Answer, HttpFaultProxy, Pass, Request, pass_all
from tests.support import ROUTE, wait_for, whole_path


def says(status: int, kind: str) -> Callable[[Request], Answer]:
    return lambda _: Answer(status, {"x-amzn-ErrorType": kind}, b'{"Message":"m"}')


def raises(kind: str) -> Callable[[Request], Answer]:
    """Answer as a function that is there, and raises when it is invoked."""

    def rule(request: Request) -> Answer:
        if request.headers.get("X-Amz-Invocation-Type") == "DryRun":
            return Answer(204)
        return Answer(
            200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorType":"%s","errorMessage":"m"}' % kind.encode()
        )

    return rule


PASSING = {
    "down": None,
    "pending": says(409, "ResourceConflictException"),
    "throttled": says(429, "TooManyRequestsException"),
    "not ready": says(502, "ResourceNotReadyException"),
    "failover": raises("RuntimeError"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_does_not_keep_the_engine_from_starting(tmp_path: Path, name: str) -> None:
    """The engine starts, names the trouble, and delivers what changed meanwhile when it is over."""
    rule = PASSING[name]
    with whole_path(tmp_path) as path, HttpFaultProxy(path.runtime.endpoint) as proxy:
        path.environment["AWS_ENDPOINT_URL_LAMBDA"] = proxy.endpoint
        path.write_config(ROUTE, shards=1, invokers=1)
        if rule is None:
            proxy.refuse(True)
        else:
            proxy.rule = rule
        path.start()
        assert "worth_knowing" in path.log()
        path.client.hset("cart:1", "tea", 2)
        wait_for(lambda: path.totals()["invocations_failed"], "a failed invocation")
        if rule is None:
            proxy.refuse(False)
        proxy.rule = pass_all
        wait_for(lambda: path.last().get(b"cart:1") == {"tea": "2"}, "the cart")
        assert path.stop() == 0


def test_a_reload_says_it_too(tmp_path: Path) -> None:
    """A route that is added while its function is still being created is in force at once, and its trouble is named."""
    with whole_path(tmp_path) as path, HttpFaultProxy(path.runtime.endpoint) as proxy:
        path.environment["AWS_ENDPOINT_URL_LAMBDA"] = proxy.endpoint
        path.write_config(ROUTE, shards=1, invokers=1)
        path.start()
        proxy.rule = lambda request: (
            says(409, "ResourceConflictException")(request) if "fresh" in request.path else Pass()
        )
        path.write_config(ROUTE + '[[routes]]\nname = "fresh"\nfunction = "fresh"\n', shards=1, invokers=1)
        assert path.engine is not None
        path.engine.send_signal(signal.SIGHUP)
        wait_for(lambda: "routes_in_force" in path.log(), "the new routes")
        assert "function fresh can" in path.log()
        assert "reload_refused" not in path.log()
        assert path.stop() == 0


@pytest.mark.parametrize(
    "rule",
    [says(404, "ResourceNotFoundException"), says(403, "AccessDeniedException"), raises("SetupError")],
    ids=["missing", "no right", "set up wrongly"],
)
def test_what_is_to_be_mended_does(tmp_path: Path, rule: Callable[[Request], Answer]) -> None:
    """A missing function, a missing right and a wrong set-up refuse the start."""
    with whole_path(tmp_path) as path, HttpFaultProxy(path.runtime.endpoint) as proxy:
        path.environment["AWS_ENDPOINT_URL_LAMBDA"] = proxy.endpoint
        path.write_config(ROUTE, shards=1, invokers=1)
        proxy.rule = rule
        path.launch()
        wait_for(path.is_over, "the refusal")
        assert path.stop() == 1
        assert "route 'all'" in path.log()


def test_aws_has_less_time_than_a_start() -> None:
    """Who does not answer in time is noted, and what others found is kept."""

    def slow(*_: object) -> Seen:
        time.sleep(30)
        return Seen()

    settings = Settings(supervision=SupervisionSettings(ready_timeout_s=0.2))
    well = finding(Verdict.OK, "functions", "carts")
    looks = (("functions", lambda *_: Seen([well])), ("destinations", slow))
    found = AwsLook(settings, (), looks).seen().findings
    assert found[0] == well
    assert [(one.verdict, one.problem.place, one.exit_code) for one in found[1:]] == [(Verdict.NOTE, "destinations", 0)]
