"""``engine sandbox``: the embedded stack, until stopped; with functions of the user's own, an engine beside it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from engine.redis.address import parts_of
from engine.sandbox.errors import PortInUse
from engine.sandbox.functions.own import own_function
from engine.sandbox.running_engine import RunningEngine, engine_variables, settings_for
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox, default_functions

_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Trial:
    """Functions of the user's own (NAME=module:handler), and the engine that is to invoke them.

    ``redis_url`` is a server of their own, "" the embedded one. Without ``config`` every change of every key goes to
    each function. Without ``runs_engine`` the user starts one.
    """

    functions: Sequence[str] = ()
    redis_url: str = ""
    config: str = ""
    runs_engine: bool = False


def run_sandbox(
    redis_port: int = 6379,
    dynamodb_port: int = 8000,
    lambda_port: int = 9001,
    table: str = DEFAULT_TABLE,
    json_output: bool = False,
    trial: Trial | None = None,
) -> int:
    """Run the sandbox until SIGINT or SIGTERM, then return 0; return 1 if a part ends by itself.

    Raises SandboxError if a part can't be started.
    """
    trial = trial or Trial()
    signals: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    own = [own_function(text, table, Path.cwd()) for text in trial.functions]
    named = {spec.name for spec in own}
    functions = [*own, *(spec for spec in default_functions(table) if spec.name not in named)] if own else None
    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    sandbox = Sandbox(redis_port, dynamodb_port, lambda_port, table, functions, redis_url=trial.redis_url)
    engine, state = RunningEngine(), Path(tempfile.mkdtemp(prefix="engine-sandbox-"))
    try:
        _start(sandbox)
        settings, variables = "", dict(sandbox.environment)
        if trial.runs_engine:
            settings, ours = _start_engine(engine, sandbox, trial, [spec.name for spec in own], state)
            variables |= ours
        # Nothing here shows a password.
        variables = {name: bare(value) if name.endswith("REDIS_URL") else value for name, value in variables.items()}
        told = _as_json(sandbox, variables, settings) if json_output else _as_text(sandbox, variables, settings)
        print(told, flush=True)
        while not signals:
            ended = sandbox.ended_parts() + ([] if engine.is_running() or not trial.runs_engine else ["the engine"])
            if ended:
                print(f"sandbox: {', '.join(ended)} ended by itself; stopping the rest", file=sys.stderr)
                return 1
            time.sleep(_LOOK_S)
        return 0
    finally:
        engine.stop()
        sandbox.stop()
        shutil.rmtree(state, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(sandbox: Sandbox) -> None:
    try:
        sandbox.start()
    except PortInUse as error:
        hint = "--redis-port 0, --dynamodb-port 0 and --lambda-port 0 pick free ones"
        raise PortInUse(error.message, hint=hint) from None


def _start_engine(
    engine: RunningEngine, sandbox: Sandbox, trial: Trial, functions: Sequence[str], state: Path
) -> tuple[str, dict[str, str]]:
    """Start the engine; return its settings file, and the variables by which other commands find it."""
    config = trial.config
    if not config:
        file = state / "engine.toml"
        file.write_text(settings_for(functions))
        config = str(file)
    ours = engine_variables(sandbox.redis_url, sandbox.lambda_endpoint, state, is_embedded=not trial.redis_url)
    engine.start(config, {**sandbox.child_environment(os.environ), **ours}, state)
    return config, ours


def _as_json(sandbox: Sandbox, variables: dict[str, str], settings: str) -> str:
    return json.dumps(
        {
            "redis_url": bare(sandbox.redis_url),
            "dynamodb_endpoint": sandbox.dynamodb_endpoint,
            "lambda_endpoint": sandbox.lambda_endpoint,
            "table": sandbox.table,
            "functions": [spec.name for spec in sandbox.lambda_runtime.functions],
            "environment": variables,
            "settings": settings,
        }
    )


def _as_text(sandbox: Sandbox, variables: dict[str, str], settings: str) -> str:
    functions = ", ".join(spec.name for spec in sandbox.lambda_runtime.functions)
    server = "Valkey" if sandbox.is_embedded else "Redis "
    lines = [
        f"{server}     {bare(sandbox.redis_url)}",
        f"DynamoDB   {sandbox.dynamodb_endpoint}   table: {sandbox.table}",
        f"Lambda     {sandbox.lambda_endpoint}   functions: {functions}",
    ]
    if settings:
        lines.append(f"engine     is ready; settings: {settings}")
    lines += [
        "",
        "In another terminal, so that boto3 and the engine use them:",
        "",
        "unset AWS_PROFILE AWS_DEFAULT_PROFILE",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        "",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def bare(url: str) -> str:
    """Return a URL without user and password."""
    parts = parts_of(url)
    return url if "@" not in parts.netloc else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
