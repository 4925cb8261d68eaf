"""AWS Lambda, invoked synchronously.

``client.invoke`` costs 1.3 ms of CPU for a payload of 1 kB, nearly all of it in the serializer and the event system. So
botocore does what must be right (the credential chain, refreshing, the endpoint, the signature), and the request
itself is put together here and sent by urllib3, botocore's own HTTP library, on connections that stay open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import orjson
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from engine.config import AwsSettings, DeliverySettings
from engine.errors import Problem
from engine.model import Failure, Outcome

SERVICE = "lambda"
REASON_CHARS_MAX = 500
_ANSWERED = Outcome()


class LambdaTarget:
    """One function. Its client is made at the first use, so after the fork; `invoke` is thread-safe."""

    def __init__(
        self,
        function: str,
        aws: AwsSettings,
        delivery: DeliverySettings,
        *,
        report_item_failures: bool,
        connections_max: int,
    ) -> None:
        self._function = function
        self._aws = aws
        self._delivery = delivery
        self._report_item_failures = report_item_failures
        self._connections_max = connections_max
        self._lock = threading.Lock()
        self._sender: _Sender | None = None

    def invoke(self, payload: bytes) -> Outcome:
        """Invoke with one payload; every expected failure is an outcome."""
        try:
            status, headers, body = self._ready().send(payload)
        except ReadTimeoutError:
            limit_ms = self._delivery.invoke_timeout_ms
            return Outcome(Failure.TIMEOUT, reason=f"no answer in delivery.invoke_timeout_ms = {limit_ms}")
        except (ConnectTimeoutError, NewConnectionError, HTTPError) as error:
            return Outcome(Failure.CONNECTION, reason=_short(f"{type(error).__name__}: {error}"))
        except BotoCoreError as error:
            return Outcome(Failure.REFUSED, reason=_short(str(error)))
        if status == 200:
            return self._answered(headers, body)
        return refused(status, headers, body, self._function)

    def _ready(self) -> _Sender:
        with self._lock:
            if self._sender is None:
                self._sender = _Sender(self._function, self._aws, self._delivery, self._connections_max)
            return self._sender

    def _answered(self, headers: Any, body: bytes) -> Outcome:
        if headers.get("X-Amz-Function-Error"):
            return function_error(body)
        if not self._report_item_failures:
            return _ANSWERED
        return batch_answer(body)

    def close(self) -> None:
        """Give back connections."""
        if self._sender is not None:
            self._sender.close()


class _Sender:
    """Signs and sends requests to one function."""

    def __init__(
        self, function: str, aws: AwsSettings, delivery: DeliverySettings, connections_max: int
    ) -> None:
        client = make_client(aws, delivery)
        self._region: str = client.meta.region_name
        endpoint: str = client.meta.endpoint_url
        self._credentials = client._request_signer._credentials
        if self._credentials is None:
            raise NoCredentialsError
        self._path = f"/2015-03-31/functions/{quote(function, safe='')}/invocations"
        self._url = endpoint.rstrip("/") + self._path
        self._pool = _pool(endpoint, delivery, connections_max)

    def send(self, payload: bytes) -> tuple[int, Any, bytes]:
        """Send one invocation; return status, headers and body."""
        request = AWSRequest("POST", self._url, data=payload, headers={"Content-Type": "application/json"})
        SigV4Auth(self._credentials.get_frozen_credentials(), SERVICE, self._region).add_auth(request)
        response = self._pool.urlopen(
            "POST", self._path, body=payload, headers=dict(request.headers.items()), retries=False
        )
        return response.status, response.headers, response.data

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


def make_client(aws: AwsSettings, delivery: DeliverySettings) -> Any:
    """Return boto3's Lambda client: one attempt a call, because the engine retries."""
    return boto3.Session().client(
        "lambda",
        region_name=aws.region or None,
        endpoint_url=aws.lambda_endpoint_url or None,
        config=Config(
            connect_timeout=delivery.connect_timeout_ms / 1_000,
            read_timeout=delivery.invoke_timeout_ms / 1_000,
            retries={"total_max_attempts": 1},
        ),
    )


def _pool(endpoint: str, delivery: DeliverySettings, connections_max: int) -> Any:
    parts = urlsplit(endpoint)
    timeout = urllib3.Timeout(
        connect=delivery.connect_timeout_ms / 1_000, read=delivery.invoke_timeout_ms / 1_000
    )
    options: dict[str, Any] = {"maxsize": connections_max, "block": True, "timeout": timeout}
    if parts.scheme == "https":
        bundle = os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True)
        return urllib3.HTTPSConnectionPool(parts.hostname or "", parts.port, ca_certs=bundle, **options)
    return urllib3.HTTPConnectionPool(parts.hostname or "", parts.port, **options)


def batch_answer(body: bytes) -> Outcome:
    """Return what a function's answer to a batch means, as event source mappings read it."""
    try:
        answer = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return Outcome(Failure.BAD_ANSWER, reason=_short(f"the answer is not JSON: {body[:100]!r}"))
    if not isinstance(answer, dict):
        return _ANSWERED
    if "errorMessage" in answer and "errorType" in answer:
        return function_error(body)
    failures = answer.get("batchItemFailures")
    if not failures:
        return _ANSWERED
    if not isinstance(failures, list):
        return Outcome(Failure.BAD_ANSWER, reason="batchItemFailures is not a list")
    named = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in failures]
    names = [name for name in named if isinstance(name, str) and name]
    if len(names) != len(failures):
        return Outcome(Failure.BAD_ANSWER, reason="an entry of batchItemFailures has no itemIdentifier")
    return Outcome(Failure.ITEMS, tuple(dict.fromkeys(names)), f"{len(names)} records failed")


def function_error(body: bytes) -> Outcome:
    """Return the outcome of a function that raised, or ran out of its time."""
    try:
        error = orjson.loads(body)
        message = str(error.get("errorMessage", ""))
        kind = str(error.get("errorType", ""))
    except (orjson.JSONDecodeError, AttributeError):
        message, kind = body[:REASON_CHARS_MAX].decode("utf-8", "replace"), ""
    failure = Failure.TIMEOUT if "Task timed out" in message else Failure.FUNCTION_ERROR
    return Outcome(failure, reason=_short(f"{kind}: {message}" if kind else message))


def refused(status: int, headers: Any, body: bytes, function: str) -> Outcome:
    """Return the outcome of an answer of the Lambda service that is not 200."""
    message, reason = _message(body)
    kind = str(headers.get("x-amzn-ErrorType", "")).split(":")[0]
    text = _short(f"{status} {kind} {reason} {message}".replace("  ", " "))
    if status == 429:
        after_s = str(headers.get("Retry-After", "0"))
        retry_after_ms = int(after_s) * 1_000 if after_s.isdigit() else 0
        return Outcome(Failure.THROTTLED, reason=text, retry_after_ms=retry_after_ms)
    if status == 413:
        return Outcome(Failure.OVERSIZE, reason=text)
    if status >= 500:
        return Outcome(Failure.SERVICE, reason=text)
    hints = {
        "ResourceNotFoundException": f"no function {function} in this region: see the route's function and aws.region",
        "AccessDeniedException": "grant lambda:InvokeFunction on it to the engine's role",
        "ExpiredTokenException": "the credentials have expired",
        "UnrecognizedClientException": "the credentials are not valid",
    }
    hint = hints.get(kind)
    return Outcome(Failure.REFUSED, reason=f"{text} ({hint})" if hint else text)


def _message(body: bytes) -> tuple[str, str]:
    try:
        error = orjson.loads(body)
        return str(error.get("message") or error.get("Message") or ""), str(error.get("Reason") or "")
    except (orjson.JSONDecodeError, AttributeError):
        return body[:200].decode("utf-8", "replace"), ""


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "…"


def check_functions(
    functions: Iterable[tuple[str, str]], aws: AwsSettings, delivery: DeliverySettings
) -> list[Problem]:
    """Ask for each (place, function) whether it is there and may be invoked, without running it."""
    problems: list[Problem] = []
    client: Any = None
    for place, function in functions:
        try:
            client = client or make_client(aws, delivery)
            client.invoke(FunctionName=function, InvocationType="DryRun")
        except ClientError as error:
            problems.append(_problem(place, function, error))
        except BotoCoreError as error:
            hint = "see aws.region, aws.lambda_endpoint_url and the AWS credentials"
            problems.append(Problem(place, f"{function} cannot be reached: {_short(str(error))}", hint))
    return problems


def _problem(place: str, function: str, error: Any) -> Problem:
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ResourceNotFoundException":
        return Problem(place, f"no such function: {function}", "check its name, the region and the account")
    if code in {"AccessDeniedException", "AccessDenied"}:
        return Problem(place, f"not allowed to invoke {function}", "grant lambda:InvokeFunction on it")
    return Problem(place, f"{function}: {_short(str(error))}", "see the AWS credentials and aws.region")
