"""The part of Lambda's HTTP API that the sandbox speaks: addresses and errors. Pure."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from engine.sandbox.functions.spec import MEMORY_MB, FunctionSpec

REQUEST_BYTES_MAX = 6_291_456
EVENT_BYTES_MAX = 1_048_576
CONTEXT_CHARS_MAX = 3_583

_PATH = re.compile(r"/2015-03-31/functions/([^/]+)(/invocations/?)?")
# Name, name:qualifier, account:function:name, or the whole ARN; each with or without a qualifier.
_IDENTIFIER = re.compile(
    r"(?:(?:arn:[\w-]+:lambda:[\w-]+:)?\d{12}:function:|function:)?([A-Za-z0-9_-]{1,64})(?::[$\w-]+)?"
)

Operation = Literal["Invoke", "GetFunction"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for."""

    operation: Operation
    function: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the service itself, as opposed to one of a function."""

    status: int
    code: str
    body: bytes


class ClientContext(NamedTuple):
    """A JSON text that a caller sent beside the event, "" for none; or why it is refused."""

    text: str = ""
    refusal: Refusal | None = None


def client_context(header: str) -> ClientContext:
    """Return what the header X-Amz-Client-Context holds."""
    if not header:
        return ClientContext()
    try:
        text = b64decode(header, validate=True).decode()
        json.loads(text)
    except ValueError:
        return ClientContext(refusal=bad_parameter("Client context must be a valid Base64-encoded JSON object."))
    if len(header) > CONTEXT_CHARS_MAX:
        return ClientContext(refusal=bad_parameter(f"Client context is longer than {CONTEXT_CHARS_MAX} characters."))
    return ClientContext(text)


@lru_cache(maxsize=1_024)
def parse_call(method: str, raw_path: str) -> Call | None:
    """Return what a request asks for; None if it is nothing that the sandbox knows."""
    match = _PATH.fullmatch(raw_path.partition("?")[0])
    if match is None:
        return None
    identifier = _IDENTIFIER.fullmatch(unquote(match[1]))
    function = identifier[1] if identifier else ""
    if method == "POST" and match[2]:
        return Call("Invoke", function)
    if method == "GET" and not match[2]:
        return Call("GetFunction", function)
    return None


def describe(spec: FunctionSpec) -> bytes:
    """Return the answer of GetFunction."""
    return json.dumps(
        {
            "Configuration": {
                "FunctionName": spec.name,
                "FunctionArn": spec.arn,
                "Handler": spec.handler,
                "Timeout": max(1, round(spec.timeout_s)),
                "MemorySize": MEMORY_MB,
                "Version": "$LATEST",
                "State": "Active",
                "LastUpdateStatus": "Successful",
                "PackageType": "Zip",
            },
            "Concurrency": {"ReservedConcurrentExecutions": spec.concurrency_max},
        }
    ).encode()


def not_found(arn: str) -> Refusal:
    """There is no such function."""
    return _refusal(404, "ResourceNotFoundException", {"Message": f"Function not found: {arn}"})


def unknown_operation() -> Refusal:
    """The sandbox does not know this request."""
    return _refusal(404, "UnknownOperationException", {"Message": "The sandbox knows Invoke and GetFunction."})


def bad_parameter(message: str) -> Refusal:
    """A header holds something that it may not."""
    return _refusal(400, "InvalidParameterValueException", {"message": message})


def invalid_json(reason: str) -> Refusal:
    """The payload is not JSON."""
    message = f"Could not parse request body into json: {reason}"
    return _refusal(400, "InvalidRequestContentException", {"message": message})


def too_large(size: int, invocation_type: str, bytes_max: int) -> Refusal:
    """The payload is larger than Lambda takes."""
    message = f"{size} byte payload is too large for the {invocation_type} invocation type (limit {bytes_max} bytes)"
    return _refusal(413, "RequestEntityTooLargeException", {"message": message})


def throttled() -> Refusal:
    """As many invocations are under way as the function may have."""
    reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
    return _refusal(429, "TooManyRequestsException", {"Reason": reason, "message": "Rate Exceeded."})


def failed(message: str) -> Refusal:
    """The sandbox itself did not do its part."""
    return Refusal(500, "ServiceException", json.dumps({"Type": "Service", "Message": message}).encode())


def _refusal(status: int, code: str, body: dict[str, Any]) -> Refusal:
    return Refusal(status, code, json.dumps({"Type": "User"} | body).encode())
