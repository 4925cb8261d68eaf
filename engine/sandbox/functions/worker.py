"""A worker of the Lambda runtime: one handler, one invocation at a time.

Run as ``python -m engine.sandbox.functions.worker SOCKET MODULE FUNCTION``. What the handler prints goes to the
runtime's log; events and answers go over the socket.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import orjson

from engine.sandbox import lifeline
from engine.sandbox.functions import frames
from engine.sandbox.functions.sources import sources_of

RESPONSE_BYTES_MAX = 6_291_556

Handler = Callable[[Any, "Context"], Any]


@dataclass(frozen=True, slots=True)
class ClientContext:
    """What the caller sent beside the event; named as in AWS."""

    custom: dict[str, Any] | None
    env: dict[str, Any] | None
    client: dict[str, Any] | None

    @classmethod
    def of(cls, text: str) -> ClientContext | None:
        """Return what a header holds, already decoded, None where there is none."""
        told = json.loads(text) if text else None
        return cls(told.get("custom"), told.get("env"), told.get("client")) if isinstance(told, dict) else None


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler is told about its invocation, beside the event; named as in AWS."""

    aws_request_id: str
    invoked_function_arn: str
    deadline_ms: float
    function_name: str
    memory_limit_in_mb: str
    client_context: ClientContext | None = None
    function_version: str = "$LATEST"

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the invocation may still take."""
        return max(0, int(self.deadline_ms - time.time() * 1000))


class ResponseTooLarge(Exception):
    """The answer is larger than Lambda hands back."""


def main() -> None:
    """Import the handler, say so, and serve until the runtime is gone."""
    descriptor, module, function = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    # Processes that the handler starts must not hold the line to the runtime open.
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    lifeline.watch_lifeline(lifeline.exit_at_once)
    try:
        handler = getattr(import_module(module), function)
    except BaseException as error:
        traceback.print_exc()
        frames.send(connection, {"kind": "failed"}, error_body(error, f"{type(error).__name__}: {error}"))
        sys.exit(1)
    frames.send(connection, {"kind": "ready", "files": sources_of(module)})
    while (frame := frames.receive(connection)) is not None:
        head, body = answer(handler, *frame)
        frames.send(connection, head, body)


def answer(handler: Handler, head: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Run the handler on a payload; return the head and the body of what came of it."""
    try:
        event = load_event(payload)
    except ValueError as error:
        return {"kind": "invalid"}, str(error).encode()
    records = count_records(event)
    context = Context(
        aws_request_id=head["request_id"],
        invoked_function_arn=head["arn"],
        deadline_ms=head["deadline_ms"],
        function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
        memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        client_context=ClientContext.of(head.get("client_context", "")),
    )
    try:
        return {"kind": "result", "records": records}, dump_result(handler(event, context))
    except Exception as error:
        body = error_body(error, str(error))
        return {"kind": "error", "records": records, "error": error_type(error)}, body


def load_event(payload: bytes) -> Any:
    """Return the event; raise ValueError if the payload is not JSON. No payload is an empty event."""
    if not payload:
        return {}
    try:
        return orjson.loads(payload)
    except ValueError:
        # Lambda's own parser takes some texts that orjson refuses, such as lone surrogates.
        return json.loads(payload)


def count_records(event: Any) -> int:
    """Return how many records the event brings; 1 if it is not a batch."""
    records = event.get("records") if isinstance(event, dict) else None
    return len(records) if isinstance(records, list) else 1


def dump_result(result: Any) -> bytes:
    """Return the answer as JSON; raise what makes it a function error if that can't be."""
    # The standard library's writer, as in Lambda: orjson would take dataclasses and dates, which fail there.
    body = json.dumps(result).encode()
    if len(body) > RESPONSE_BYTES_MAX:
        raise ResponseTooLarge(
            f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."
        )
    return body


def error_type(error: BaseException) -> str:
    """Return the error's name as Lambda reports it."""
    if isinstance(error, ResponseTooLarge):
        return "Function.ResponseSizeTooLarge"
    return type(error).__name__


def error_body(error: BaseException, message: str) -> bytes:
    """Return what the caller is told of a handler's error."""
    calls = [] if isinstance(error, ResponseTooLarge) else traceback.format_tb(error.__traceback__)[1:]
    return json.dumps({"errorMessage": message, "errorType": error_type(error), "stackTrace": calls}).encode()


if __name__ == "__main__":
    main()
