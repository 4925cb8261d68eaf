"""``engine sandbox``: the embedded stack, until stopped."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from types import FrameType

from engine.sandbox.errors import PortInUse
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox

_LOOK_S = 0.2


def run_sandbox(
    redis_port: int = 6379,
    dynamodb_port: int = 8000,
    lambda_port: int = 9001,
    table: str = DEFAULT_TABLE,
    json_output: bool = False,
) -> int:
    """Run the sandbox until SIGINT or SIGTERM, then return 0; return 1 if a part ends by itself.

    Raises SandboxError if a part can't be started.
    """
    signals: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    sandbox = Sandbox(redis_port, dynamodb_port, lambda_port, table)
    try:
        _start(sandbox)
        print(_as_json(sandbox) if json_output else _as_text(sandbox), flush=True)
        while not signals:
            ended = sandbox.ended_parts()
            if ended:
                print(f"sandbox: {', '.join(ended)} ended by itself; stopping the rest", file=sys.stderr)
                return 1
            time.sleep(_LOOK_S)
        return 0
    finally:
        sandbox.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(sandbox: Sandbox) -> None:
    try:
        sandbox.start()
    except PortInUse as error:
        hint = "--redis-port 0, --dynamodb-port 0 and --lambda-port 0 pick free ones"
        raise PortInUse(error.message, hint=hint) from None


def _as_json(sandbox: Sandbox) -> str:
    return json.dumps(
        {
            "redis_url": sandbox.redis_url,
            "dynamodb_endpoint": sandbox.dynamodb_endpoint,
            "lambda_endpoint": sandbox.lambda_endpoint,
            "table": sandbox.table,
            "functions": [spec.name for spec in sandbox.lambda_runtime.functions],
            "environment": sandbox.environment,
        }
    )


def _as_text(sandbox: Sandbox) -> str:
    functions = ", ".join(spec.name for spec in sandbox.lambda_runtime.functions)
    lines = [
        f"Valkey     {sandbox.redis_url}",
        f"DynamoDB   {sandbox.dynamodb_endpoint}   table: {sandbox.table}",
        f"Lambda     {sandbox.lambda_endpoint}   functions: {functions}",
        "",
        "In another terminal, so that boto3 and the engine use them:",
        "",
        "unset AWS_PROFILE AWS_DEFAULT_PROFILE",
        *(f"export {name}={shlex.quote(value)}" for name, value in sandbox.environment.items()),
        "",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)
