from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from engine.delivery.targets import flights, lambda_
from engine.model import Failure
from tests.lambda_service import PAYLOAD, Service, running, target


@pytest.fixture(params=["threads", "loop"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with running(monkeypatch, is_looped=request.param == "loop") as server:
        yield server


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


ERROR = {"X-Amz-Function-Error": "Unhandled"}


@pytest.mark.parametrize(
    ("status", "headers", "answer", "brief"),
    [
        (200, ERROR, {"errorType": "KeyError", "errorMessage": "4929"}, "KeyError"),
        (200, ERROR, {"errorType": "com.shop.Cart$Bad", "errorMessage": "4929"}, "com.shop.Cart$Bad"),
        (200, ERROR, {"errorType": "no 4929", "errorMessage": "x"}, "an error"),
        (200, ERROR, {"errorType": "x" * 101, "errorMessage": "4929"}, "an error"),
        (200, ERROR, {"errorMessage": "4929"}, "an error"),
        (200, ERROR, "4929", "an error"),
        (200, {}, {"errorType": "KeyError", "errorMessage": "4929"}, "KeyError"),
        (200, {}, {"batchItemFailures": [{"itemIdentifier": "1", "reason": "4929"}]}, "1 record failed"),
        (200, ERROR, {"errorType": "Runtime.UnmarshalError", "errorMessage": "4929"}, "Runtime.UnmarshalError"),
        (400, {"x-amzn-ErrorType": "InvalidRequestContentException"}, {"message": "4929"},
         "HTTP 400 InvalidRequestContentException (the function does not accept what the engine sends: check the "
         "route's payload)"),
        # These say nothing of records.
        (200, {}, {"batchItemFailures": [{"itemIdentifier": "1"}]}, ""),
        (200, ERROR, {"errorType": "Runtime.ImportModuleError", "errorMessage": "no module"}, ""),
        (200, ERROR, {"errorType": "SetupError", "errorMessage": "set DYNAMO_TABLE"}, ""),
        (403, {"x-amzn-ErrorType": "AccessDeniedException"}, {"Message": "no"}, ""),
    ],
)  # fmt: skip
def test_what_a_log_may_say_quotes_no_function(
    service: Service, status: int, headers: dict[str, str], answer: object, brief: str
) -> None:
    """Where a reason holds a function's own words there is another one without them: the error's type, a count."""
    service.answer = (status, headers, orjson.dumps(answer))
    outcome = target(service).invoke(PAYLOAD)
    assert outcome.brief == brief
    assert ("4929" in outcome.reason) is (brief != "" and "4929" in str(answer))


def test_a_bad_answer_is_not_quoted_in_a_log(service: Service) -> None:
    """Nor is an answer that is not JSON; and what a terminal obeys is escaped wherever a reason is shown."""
    service.answer = (200, {}, b"4929 \x1b[31m")
    outcome = target(service).invoke(PAYLOAD)
    assert ("4929" in outcome.reason, outcome.brief) == (True, "the answer is not JSON")
    service.answer = (200, ERROR, orjson.dumps({"errorType": "E", "errorMessage": "a\x1b[31m\u202eb\n" * 999}))
    reason = target(service).invoke(PAYLOAD).reason
    assert reason.isprintable()
    assert len(reason) <= 500


def test_failed_items_are_named_once(service: Service) -> None:
    """The identifiers of batchItemFailures come back in order, each once."""
    service.answer = (
        200,
        {},
        b'{"batchItemFailures":[{"itemIdentifier":"2"},{"itemIdentifier":"1"},{"itemIdentifier":"2"}]}',
    )
    assert target(service).invoke(PAYLOAD).failed_ids == ("2", "1")


def test_what_a_function_says_of_its_failed_items_is_told(service: Service) -> None:
    """Each reason once, the commonest first, within bounds; without any, their number alone."""
    reasons = ["too large", "no table", "too large", "x" * 500, "fourth", None]
    failures = [{"itemIdentifier": str(number), "reason": reason} for number, reason in enumerate(reasons)]
    service.answer = (200, {}, orjson.dumps({"batchItemFailures": failures}))
    told = target(service).invoke(PAYLOAD).reason
    assert told.startswith("6 records failed: too large (2×); no table (1×); xxx")
    assert told.endswith("…") and len(told) < 500
    service.answer = (200, {}, b'{"batchItemFailures":[{"itemIdentifier":"2","reason":7}]}')
    assert target(service).invoke(PAYLOAD).reason == "1 record failed"


def test_without_reporting_any_answer_is_success(service: Service) -> None:
    """A function written for the original may answer what it likes."""
    service.answer = (200, {}, b"<not json>")
    assert target(service, report=False).invoke(PAYLOAD).failure is Failure.NONE


def test_the_services_wish_to_wait_is_kept(service: Service) -> None:
    """Retry-After comes through in milliseconds, within reason; what is no number of seconds says nothing."""
    for wish, wait_ms in (("2", 2_000), ("99999999999999", 300_000), ("soon", 0), ("-1", 0), ("", 0)):
        service.answer = (429, {"Retry-After": wish}, b"{}")
        assert target(service).invoke(PAYLOAD).retry_after_ms == wait_ms


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


def test_connections_stay_open_and_are_replaced(service: Service) -> None:
    """Invocations share a connection; one that the service closed meanwhile is replaced without a failure."""
    one = target(service)
    for _ in range(5):
        assert one.invoke(PAYLOAD).failure is Failure.NONE
    assert service.connections == 1
    service.hangs_up = True
    for _ in range(5):
        assert one.invoke(PAYLOAD).failure is Failure.NONE
        time.sleep(0.02)
    assert service.connections == 5
    one.close()
    assert one.invoke(PAYLOAD).failure is Failure.NONE


def test_half_an_answer_is_no_answer(service: Service) -> None:
    """An answer that broke off is a lost connection, even where what came would mean success."""
    service.lacking_bytes = 10
    for body in (b"", b"null"):
        service.answer = (200, {}, body)
        outcome = target(service).invoke(PAYLOAD)
        assert outcome.failure is Failure.CONNECTION
        assert f"after {len(body)} of {len(body) + 10} bytes" in outcome.reason


def test_an_answer_without_end_is_cut(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of an answer is read than Lambda allows; the connection is not used again."""
    for module in (lambda_, flights):
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1_000)
    one = target(service)
    service.answer = (200, {}, b" " * 100_000)
    assert one.invoke(PAYLOAD).failure is Failure.BAD_ANSWER
    service.answer = (200, {}, b"null")
    assert one.invoke(PAYLOAD).failure is Failure.NONE
    assert service.connections == 2


@pytest.mark.parametrize("report", [True, False])
@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b'{"errorType":"KeyError","errorMessage":"x","requestId":"1","stackTrace":[]}', Failure.FUNCTION_ERROR),
        (b"2026-01-01T00:00:00Z 8f1c Task timed out after 3.00 seconds", Failure.TIMEOUT),
        (b'{"errorType":"none","errorMessage":"none","mine":1}', Failure.NONE),
    ],
)
def test_the_emulators_errors_are_seen(service: Service, report: bool, body: bytes, failure: Failure) -> None:
    """The local emulator tells a function's error in the body alone; an answer that only looks like it is none."""
    service.answer = (200, {}, body)
    assert target(service, report=report).invoke(PAYLOAD).failure is failure


def test_reasons_are_short_lines(service: Service) -> None:
    """However long an error is, its reason is one bounded line, and a remedy in it is not what is cut off."""
    long = b'{"errorType":"E","errorMessage":"' + b"x\\n" * 10_000 + b'"}'
    service.answer = (200, {"X-Amz-Function-Error": "Unhandled"}, long)
    outcomes = [target(service).invoke(PAYLOAD)]
    service.answer = (403, {"x-amzn-ErrorType": "AccessDeniedException"}, b'{"Message":"' + b"y " * 10_000 + b'"}')
    outcomes.append(target(service).invoke(PAYLOAD))
    assert all(len(outcome.reason) <= 500 and "\n" not in outcome.reason for outcome in outcomes)
    assert outcomes[1].reason.endswith("(grant lambda:InvokeFunction on it to the engine's role or user)")


def test_threads_share_a_target(service: Service) -> None:
    """Eight threads at once each get their own answer."""
    service.is_looped = False
    one = target(service)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: one.invoke(PAYLOAD), range(80)))
    assert all(outcome.failure is Failure.NONE for outcome in outcomes)
    assert len(service.seen) == 80
    one.close()
