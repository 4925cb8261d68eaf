"""Was it sent, or was it not? Every failure of a call, on real sockets, for all kinds of targets."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from engine.aws.failure_arns import parse_failure_arn
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.failures.dead_letter import DeadLetter
from engine.delivery.failures.places import failure_sink
from engine.delivery.targets.base import Target
from engine.delivery.targets.make import make_target
from engine.model import Failure
from tests.faulty_service import (
    Script,
    answers,
    breaks_tls,
    closes,
    in_tls,
    is_silent,
    nobody,
    resets,
    serving,
    tunnels,
    unanswered,
)
from tests.lambda_service import InTheLoop
from tests.tls_proxy import Certificates, make_certificates

REGION = "us-east-1"
FUNCTION = "carts"
STREAM = f"arn:aws:kinesis:{REGION}:123456789012:stream/carts"
QUEUE = f"arn:aws:sqs:{REGION}:123456789012:carts"
RECORD = {"record_id": "0", "id": "a", "body": "{}", "version": 7, "event": "hset", "captured_at_ms": 1}
PAYLOAD = orjson.dumps({"records": [RECORD], "deadline_ms": 1})
DELIVERY = DeliverySettings(connect_timeout_ms=300, invoke_timeout_ms=400)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@dataclass(frozen=True)
class Fault:
    """Where a call goes, and what meets it there."""

    place: Callable[[Certificates], AbstractContextManager[int]]
    is_lost: bool
    endpoint: str = "http://127.0.0.1:{port}"
    proxy: str = ""
    trusts: bool = True


TLS = "https://127.0.0.1:{port}"
FAR = "https://service.invalid"
PROXY = "http://127.0.0.1:{port}"


def plain(script: Script) -> Callable[[Certificates], AbstractContextManager[int]]:
    return lambda _: serving(script)


def tls(script: Script) -> Callable[[Certificates], AbstractContextManager[int]]:
    return lambda certificates: serving(in_tls(certificates, script))


def tunnel(script: Script) -> Callable[[Certificates], AbstractContextManager[int]]:
    return lambda certificates: serving(tunnels(in_tls(certificates, script)))


FAULTS = {
    # While connecting.
    "refused": Fault(lambda _: nobody(), False),
    "unresolved": Fault(lambda _: nobody(), False, "http://service.invalid:{port}"),
    "no connection in time": Fault(lambda _: unanswered(), False),
    "a certificate that we reject": Fault(tls(closes), False, TLS, trusts=False),
    "proxy refused": Fault(lambda _: nobody(), False, FAR, PROXY),
    "proxy unresolved": Fault(lambda _: nobody(), False, FAR, "http://proxy.invalid:{port}"),
    "no connection to the proxy in time": Fault(lambda _: unanswered(), False, FAR, PROXY),
    "the proxy wants a password": Fault(plain(answers(407)), False, FAR, PROXY),
    "the proxy reaches nobody": Fault(plain(answers(502)), False, FAR, PROXY),
    "forwarding proxy refused": Fault(lambda _: nobody(), False, "http://service.invalid", PROXY),
    "a certificate that we reject, in a tunnel": Fault(tunnel(closes), False, "https://127.0.0.1", PROXY, trusts=False),
    # After it.
    "closed": Fault(plain(closes), True),
    "reset": Fault(plain(resets), True),
    "silent": Fault(plain(is_silent), True),
    "not HTTP": Fault(plain(lambda sock: sock.sendall(b"what?\r\n\r\n")), True),
    "closed in TLS": Fault(tls(closes), True, TLS),
    "TLS breaks": Fault(tls(breaks_tls), True, TLS),
    "silent in TLS": Fault(tls(is_silent), True, TLS),
    "closed in a tunnel": Fault(tunnel(closes), True, "https://127.0.0.1", PROXY),
    "reset in a tunnel": Fault(tunnel(resets), True, "https://127.0.0.1", PROXY),
    "TLS breaks in a tunnel": Fault(tunnel(breaks_tls), True, "https://127.0.0.1", PROXY),
    "silent in a tunnel": Fault(tunnel(is_silent), True, "https://127.0.0.1", PROXY),
    "closed by a forwarding proxy": Fault(plain(closes), True, "http://service.invalid", PROXY),
    "reset by a forwarding proxy": Fault(plain(resets), True, "http://service.invalid", PROXY),
    **{f"a gateway's {status}": Fault(plain(answers(status, b"<html>")), True) for status in (408, 500, 502, 503, 504)},
    "a gateway's 502 in a tunnel": Fault(tunnel(answers(502, b"<html>")), True, "https://127.0.0.1", PROXY),
    "half a gateway's answer": Fault(plain(answers(502, b"<html>", cut=3)), True),
}
SOME = ("refused", "proxy refused", "reset in a tunnel", "TLS breaks", "not HTTP", "a gateway's 503")


def surroundings(monkeypatch: pytest.MonkeyPatch, fault: Fault, port: int, certificates: Certificates) -> str:
    """Let clients find the fault; return its endpoint."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)
    endpoint = fault.endpoint.format(port=port)
    settings = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_KINESIS": endpoint,
        "AWS_ENDPOINT_URL_SQS": endpoint,
        "AWS_ENDPOINT_URL_S3": endpoint,
    }
    if fault.proxy:
        settings |= dict.fromkeys(("http_proxy", "https_proxy"), fault.proxy.format(port=port))
    if fault.trusts:
        settings["AWS_CA_BUNDLE"] = str(certificates.authority)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # A process keeps what it has found out; here the surroundings are others each time.
    monkeypatch.setattr("engine.aws.access._known", {})
    return endpoint


def target_of(function: str, aws: AwsSettings, *, is_looped: bool) -> Target | InTheLoop:
    """Return a target as an invoker has it, in its loop, or as threads call it."""
    target = make_target(RouteSettings("r", function), aws, DELIVERY)
    return InTheLoop(target) if is_looped else target


@pytest.mark.parametrize(
    ("function", "is_looped", "name"),
    [
        *((function, True, name) for function in (FUNCTION, STREAM, QUEUE) for name in FAULTS),
        *((FUNCTION, False, name) for name in FAULTS),
        *((place, False, name) for place in (STREAM, QUEUE) for name in SOME),
    ],
)
def test_only_what_failed_while_connecting_was_not_sent(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, function: str, is_looped: bool, name: str
) -> None:
    """A call that broke after its connection stood may take effect yet, and is lost; one that had none is not."""
    fault = FAULTS[name]
    with fault.place(certificates) as port:
        aws = AwsSettings(REGION, surroundings(monkeypatch, fault, port, certificates))
        target = target_of(function, aws, is_looped=is_looped)
        outcome = target.invoke(PAYLOAD)
        target.close()
    assert outcome.failure is not Failure.NONE
    assert outcome.is_lost is fault.is_lost, outcome
    assert outcome.reason and "\n" not in outcome.reason


@pytest.mark.parametrize("place", [QUEUE, "arn:aws:s3:::failed/carts"], ids=["queue", "bucket"])
@pytest.mark.parametrize("name", SOME)
def test_letters_stay_until_they_are_known_to_be_there(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, tmp_path: Path, name: str, place: str
) -> None:
    """No failure of a call counts dead letters as kept, and each is told in one line with its place."""
    fault = FAULTS[name]
    assert parse_failure_arn(place)
    with fault.place(certificates) as port:
        surroundings(monkeypatch, fault, port, certificates)
        delivery = DeliverySettings(connect_timeout_ms=300, dead_letter_file=str(tmp_path / "letters"))
        monkeypatch.setattr("engine.delivery.failures.aws.READ_TIMEOUT_MS_MAX", 600)
        sink = failure_sink(RouteSettings("r", FUNCTION, on_failure=place), delivery, AwsSettings(REGION))
        problem = sink.write([DeadLetter(1, "r", FUNCTION, "a", "hset", 1, 1, "why")])
    assert problem.startswith(place)
    assert "\n" not in problem


OWN = ("EC2ThrottledException", "ENILimitReachedException", "KMSDisabledException", "ResourceNotReadyException")
RAISED = ("KeyError", "java.lang.RuntimeException", "Runtime.HandlerNotFound", "Runtime.MarshalError")
ENDED = (
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Runtime.NodeJsExit",
    "Runtime.UnhandledPromiseRejection",
    "Extension.Crash",
    "Sandbox.Timedout",
    "Sandbox.Failure",
    "",
)


@pytest.mark.parametrize(
    ("answer", "is_lost"),
    [
        *((answers(502, b'{"Message":"m"}', f"x-amzn-ErrorType: {kind}"), False) for kind in OWN),
        (answers(500, b"{}", "x-amzn-ErrorType: ServiceException"), True),
        (answers(409, b"{}", "x-amzn-ErrorType: ResourceConflictException"), False),
        (answers(429, b"{}", "x-amzn-ErrorType: TooManyRequestsException"), False),
        (answers(403, b"{}", "x-amzn-ErrorType: AccessDeniedException"), False),
        (answers(200, b'"not a list"', cut=2), False),
        (answers(200, b'{"errorType":"E"}', "X-Amz-Function-Error: Unhandled", cut=2), True),
    ],
)
def test_what_lambda_says_itself(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, answer: Script, is_lost: bool
) -> None:
    """Lambda's own word that a function was not started, or has returned, is believed."""
    with serving(answer) as port:
        aws = AwsSettings(REGION, surroundings(monkeypatch, Fault(plain(answer), is_lost), port, certificates))
        target = target_of(FUNCTION, aws, is_looped=True)
        outcome = target.invoke(PAYLOAD)
        target.close()
    assert outcome.failure is not Failure.NONE
    assert outcome.is_lost is is_lost, outcome


@pytest.mark.parametrize(("kind", "is_lost"), [*((kind, True) for kind in ENDED), *((kind, False) for kind in RAISED)])
def test_a_process_that_ended_is_lost(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, kind: str, is_lost: bool
) -> None:
    """What a dead process had sent may still take effect; what a handler raised has ended."""
    body = orjson.dumps({"errorType": kind, "errorMessage": "m"} if kind else {"errorMessage": "m"})
    answer = answers(200, body, "X-Amz-Function-Error: Unhandled")
    with serving(answer) as port:
        aws = AwsSettings(REGION, surroundings(monkeypatch, Fault(plain(answer), is_lost), port, certificates))
        target = target_of(FUNCTION, aws, is_looped=True)
        outcome = target.invoke(PAYLOAD)
        target.close()
    assert outcome.failure in {Failure.FUNCTION_ERROR, Failure.TIMEOUT}
    assert outcome.is_lost is is_lost
