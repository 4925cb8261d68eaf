from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.check import check_functions
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.errors import Problem
from engine.model import Failure
from tests.lambda_service import PAYLOAD, Service, made_for, running, target


@pytest.fixture(params=["threads", "loop"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with running(monkeypatch, is_looped=request.param == "loop") as server:
        yield server


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def test_no_credentials_are_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the outcome says so with the remedy; once there are some, the same target uses them."""
    without_credentials(monkeypatch)
    one = target(service)
    outcome = one.invoke(PAYLOAD)
    assert outcome.failure is Failure.REFUSED
    assert "give AWS credentials" in outcome.reason
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    assert one.invoke(PAYLOAD).failure is Failure.NONE


def test_no_region_is_told(service: Service) -> None:
    """Without a region anywhere the outcome names the setting."""
    aws = AwsSettings(lambda_endpoint_url=service.url)
    one = LambdaTarget("carts", aws, DeliverySettings(), report_item_failures=True, connections_max=1)
    outcome = one.invoke(PAYLOAD)
    assert outcome.failure is Failure.REFUSED
    assert "aws.region" in outcome.reason


def test_an_endpoint_that_is_no_url_is_told(service: Service) -> None:
    """A wrong endpoint is refused in words, not by a traceback."""
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url="localhost:1")
    one = LambdaTarget("carts", aws, DeliverySettings(), report_item_failures=True, connections_max=1)
    outcome = one.invoke(PAYLOAD)
    assert outcome.failure is Failure.REFUSED
    assert "localhost:1" in outcome.reason


def test_credentials_are_renewed(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that are about to expire are fetched anew, and the next invocation is signed with the new ones."""
    without_credentials(monkeypatch)
    script = tmp_path / "credentials.sh"
    soon = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
    script.write_text(
        f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/n\n"
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"AKID$n\\", \\"SecretAccessKey\\": \\"s\\", '
        f'\\"SessionToken\\": \\"token$n\\", \\"Expiration\\": \\"{soon}\\"}}"\n'
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = sh {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    one = target(service)
    for _ in range(3):
        assert one.invoke(PAYLOAD).failure is Failure.NONE
    tokens = [headers["X-Amz-Security-Token"] for _, headers, _ in service.seen]
    assert len(set(tokens)) == 3
    for (path, headers, body), token in zip(service.seen, tokens, strict=True):
        assert headers["Authorization"] == signature_of(service, path, headers, body, token.replace("token", "AKID"))


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
    assert headers["Authorization"] == signature_of(service, path, headers, body, "AKIDEXAMPLE", "a-secret")


def signature_of(
    service: Service, path: str, headers: dict[str, str], body: bytes, key_id: str, secret: str = "s"
) -> str:
    """Sign what arrived, as the service would to verify it, and return the header that it should have."""
    _, signed, _ = headers["Authorization"].split(", ")
    names = signed.removeprefix("SignedHeaders=").split(";")
    lower = {name.lower(): value for name, value in headers.items()}
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join(
        ["POST", quote(path, safe="/~"), "", *(f"{name}:{lower[name].strip()}" for name in names), "",
         ";".join(names), digest]
    )  # fmt: skip
    moment = lower["x-amz-date"]
    scope = f"{moment[:8]}/eu-west-1/lambda/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    assert {"host", "x-amz-date"} <= set(names)
    assert lower["host"] == service.url.removeprefix("http://")
    return f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, {signed}, Signature={signature}"


def test_an_arn_names_its_region(service: Service) -> None:
    """A function of another region is asked for in its own region."""
    target(service, "arn:aws:lambda:ap-south-1:123456789012:function:carts").invoke(PAYLOAD)
    assert "/ap-south-1/lambda/" in service.seen[0][1]["Authorization"]


def test_botocore_resolves_the_endpoint(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own variables say where Lambda is, if the settings do not."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.url)
    one = made_for(service, AwsSettings(region="eu-west-1"))
    assert one.invoke(PAYLOAD).failure is Failure.NONE
    assert len(service.seen) == 1


def test_a_proxy_is_used(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment gets the request."""
    monkeypatch.setenv("http_proxy", service.url)
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url="http://lambda.invalid")
    one = made_for(service, aws)
    assert one.invoke(PAYLOAD).failure is Failure.NONE
    assert service.seen[0][0] == "http://lambda.invalid/2015-03-31/functions/carts/invocations"


def test_missing_functions_are_found_before_the_start(service: Service) -> None:
    """The check names the route's place and the remedy, and runs nothing."""
    service.answer = (404, {"x-amzn-ErrorType": "ResourceNotFoundException"}, b'{"Message":"not found"}')
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    (problem,) = check_functions([("routes[0]", "carts")], aws, DeliverySettings())
    assert problem.place == "routes[0]"
    assert "no such function: carts" in problem.message
    assert service.seen[0][1]["X-Amz-Invocation-Type"] == "DryRun"


def check(service: Service, *functions: str, url: str = "") -> list[Problem]:
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=url or service.url)
    places = [(f"routes[{index}]", function) for index, function in enumerate(functions)]
    return check_functions(places, aws, DeliverySettings(connect_timeout_ms=2_000))


def test_functions_that_are_there_are_no_problem(service: Service) -> None:
    """A function that may be invoked is no problem, and is asked for once."""
    service.answer = (204, {}, b"")
    assert check(service, "carts", "carts", "carts:live") == []
    assert len(service.seen) == 2


@pytest.mark.parametrize(
    ("status", "kind", "passes"),
    [
        (409, "ResourceConflictException", True),
        (409, "SnapStartNotReadyException", True),
        (429, "TooManyRequestsException", True),
        (500, "ServiceException", True),
        (502, "ResourceNotReadyException", True),
        (503, "", True),
        (404, "ResourceNotFoundException", False),
        (403, "AccessDeniedException", False),
        (403, "ExpiredTokenException", False),
    ],
)
def test_what_passes_is_told_apart(service: Service, status: int, kind: str, passes: bool) -> None:
    """What is updated, throttled or out of order passes; a missing function, or a missing right, does not."""
    service.answer = (status, {"x-amzn-ErrorType": kind}, b'{"Message":"m"}')
    (problem,) = check(service, "carts")
    assert problem.passes is passes
    assert problem.hint


def test_a_missing_right_is_found(service: Service) -> None:
    """Each place that names a function which may not be invoked is told, with the remedy."""
    service.answer = (403, {"x-amzn-ErrorType": "AccessDeniedException"}, b'{"Message":"no"}')
    problems = check(service, "carts", "carts")
    assert [problem.place for problem in problems] == ["routes[0]", "routes[1]"]
    assert all("not allowed to invoke carts" in problem.message for problem in problems)
    assert all("lambda:InvokeFunction" in problem.hint for problem in problems)


def test_an_endpoint_that_is_not_there_is_found(service: Service) -> None:
    """Where nobody answers, each place says so with the remedy."""
    service.server_close()
    problems = check(service, "carts", "orders")
    assert [problem.place for problem in problems] == ["routes[0]", "routes[1]"]
    assert all(
        problem.passes and service.url in problem.message and "aws.lambda_endpoint_url" in problem.hint
        for problem in problems
    )


def test_an_endpoint_that_is_silent_is_asked_once(service: Service) -> None:
    """An endpoint that does not answer costs one timeout, however many functions it was to be asked for."""
    service.delay_s = 2.0
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    functions = [(f"routes[{index}]", f"f{index}") for index in range(5)]
    problems = check_functions(functions, aws, DeliverySettings(invoke_timeout_ms=200))
    assert [problem.place for problem in problems] == [place for place, _ in functions]
    assert len(service.seen) == 1


def test_other_problems_are_found(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, an endpoint that is no URL, and a name that is none are each told with a remedy."""
    (bad_url,) = check(service, "carts", url="localhost:1")
    assert "localhost:1" in bad_url.message
    assert "aws.lambda_endpoint_url" in bad_url.hint
    service.answer = (400, {"x-amzn-ErrorType": "ValidationException"}, b'{"message":"not a function name"}')
    (bad_name,) = check(service, "no name")
    assert "no name" in bad_name.message
    assert bad_name.hint
    without_credentials(monkeypatch)
    (none,) = check(service, "carts")
    assert "give AWS credentials" in none.hint
    assert "\n" not in str(none)
