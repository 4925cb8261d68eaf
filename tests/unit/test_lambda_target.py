from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.lambda_ import LambdaTarget, check_functions
from engine.model import Failure

PAYLOAD = b'{"records":[]}'


class Service(ThreadingHTTPServer):
    """Answers as the script says, and keeps what it was asked."""

    daemon_threads = True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"null")
    delay_s = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers.items()), body))
        time.sleep(self.server.delay_s)
        status, headers, answer = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def target(service: Service, function: str = "carts", *, report: bool = True, **delivery: int) -> LambdaTarget:
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    return LambdaTarget(function, aws, DeliverySettings(**delivery), report_item_failures=report, connections_max=8)


@pytest.mark.parametrize(
    ("status", "headers", "body", "failure", "words"),
    [
        (200, {}, b"null", Failure.NONE, ""),
        (200, {}, b"", Failure.NONE, ""),
        (200, {}, b'{"batchItemFailures":[]}', Failure.NONE, ""),
        (200, {}, b'{"batchItemFailures":null}', Failure.NONE, ""),
        (200, {}, b'"any JSON"', Failure.NONE, ""),
        (200, {}, b'{"batchItemFailures":[{"itemIdentifier":"3"}]}', Failure.ITEMS, "1 record"),
        (200, {}, b'{"batchItemFailures":[{"itemIdentifier":""}]}', Failure.BAD_ANSWER, "itemIdentifier"),
        (200, {}, b'{"batchItemFailures":[{}]}', Failure.BAD_ANSWER, "itemIdentifier"),
        (200, {}, b'{"batchItemFailures":"3"}', Failure.BAD_ANSWER, "not a list"),
        (200, {}, b"<html>", Failure.BAD_ANSWER, "not JSON"),
        (200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorType":"KeyError","errorMessage":"boom"}',
         Failure.FUNCTION_ERROR, "KeyError: boom"),
        (200, {"X-Amz-Function-Error": "Unhandled"}, b'{"errorMessage":"1 Task timed out after 3.00 seconds"}',
         Failure.TIMEOUT, "timed out"),
        (200, {}, b'{"errorType":"KeyError","errorMessage":"boom"}', Failure.FUNCTION_ERROR, "boom"),
        (429, {"x-amzn-ErrorType": "TooManyRequestsException"},
         b'{"Reason":"CallerRateLimitExceeded","message":"Rate Exceeded."}', Failure.THROTTLED, "CallerRateLimit"),
        (413, {}, b'{"message":"too large"}', Failure.OVERSIZE, "too large"),
        (500, {}, b"", Failure.SERVICE, "500"),
        (502, {}, b"bad gateway", Failure.SERVICE, "bad gateway"),
        (404, {"x-amzn-ErrorType": "ResourceNotFoundException"}, b'{"Message":"not found"}',
         Failure.REFUSED, "no function carts"),
        (403, {"x-amzn-ErrorType": "AccessDeniedException"}, b'{"Message":"no"}',
         Failure.REFUSED, "grant lambda:InvokeFunction"),
    ],
)  # fmt: skip
def test_every_answer_has_its_class(
    service: Service, status: int, headers: dict[str, str], body: bytes, failure: Failure, words: str
) -> None:
    """Each answer that Lambda may give is told apart, with a reason for people."""
    service.answer = (status, headers, body)
    outcome = target(service).invoke(PAYLOAD)
    assert outcome.failure is failure
    assert words in outcome.reason


def test_failed_items_are_named_once(service: Service) -> None:
    """The identifiers of batchItemFailures come back in order, each once."""
    service.answer = (
        200,
        {},
        b'{"batchItemFailures":[{"itemIdentifier":"2"},{"itemIdentifier":"1"},{"itemIdentifier":"2"}]}',
    )
    assert target(service).invoke(PAYLOAD).failed_ids == ("2", "1")


def test_without_reporting_any_answer_is_success(service: Service) -> None:
    """A function written for the original may answer what it likes."""
    service.answer = (200, {}, b"<not json>")
    assert target(service, report=False).invoke(PAYLOAD).failure is Failure.NONE


def test_the_services_wish_to_wait_is_kept(service: Service) -> None:
    """Retry-After comes through in milliseconds."""
    service.answer = (429, {"Retry-After": "2"}, b"{}")
    assert target(service).invoke(PAYLOAD).retry_after_ms == 2_000


def test_silence_is_a_timeout(service: Service) -> None:
    """A function that does not answer in time is a timeout, not a hang."""
    service.delay_s = 5.0
    outcome = target(service, invoke_timeout_ms=100).invoke(PAYLOAD)
    assert outcome.failure is Failure.TIMEOUT
    assert "invoke_timeout_ms" in outcome.reason


def test_nobody_there_is_a_connection_failure(service: Service) -> None:
    """A refused connection is told apart from everything that the function says."""
    service.server_close()
    assert target(service).invoke(PAYLOAD).failure is Failure.CONNECTION


def test_no_credentials_are_told(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without credentials the outcome says so, instead of raising."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    outcome = target(service).invoke(PAYLOAD)
    assert outcome.failure is Failure.REFUSED
    assert "credentials" in outcome.reason


@pytest.mark.parametrize(
    ("function", "path"),
    [
        ("carts", "/2015-03-31/functions/carts/invocations"),
        ("carts:live", "/2015-03-31/functions/carts%3Alive/invocations"),
        (
            "arn:aws:lambda:eu-west-1:123456789012:function:carts",
            "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Acarts/invocations",
        ),
    ],
)
def test_the_request_is_what_lambda_expects(service: Service, function: str, path: str) -> None:
    """Names and ARNs are quoted into the path; the signature is for Lambda in the region; the payload is whole."""
    target(service, function).invoke(PAYLOAD)
    seen_path, headers, body = service.seen[0]
    assert seen_path == path
    assert body == PAYLOAD
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-1/lambda/aws4_request" in headers["Authorization"]
    assert "a-secret" not in str(headers)


def test_threads_share_a_target(service: Service) -> None:
    """Eight threads at once each get their own answer."""
    one = target(service)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: one.invoke(PAYLOAD), range(80)))
    assert all(outcome.failure is Failure.NONE for outcome in outcomes)
    assert len(service.seen) == 80
    one.close()


def test_missing_functions_are_found_before_the_start(service: Service) -> None:
    """The check names the route's place and the remedy, and runs nothing."""
    service.answer = (404, {"x-amzn-ErrorType": "ResourceNotFoundException"}, b'{"Message":"not found"}')
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    (problem,) = check_functions([("routes[0]", "carts")], aws, DeliverySettings())
    assert problem.place == "routes[0]"
    assert "no such function: carts" in problem.message
    assert service.seen[0][1]["X-Amz-Invocation-Type"] == "DryRun"
