"""An engine beside the sandbox's parts: ``engine start`` in a process of its own, which ends with the sandbox.

Run as ``python -m engine.sandbox.running_engine CONFIG STATE``, the module is what stands between: the engine itself
starts no thread that could watch a lifeline.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from engine.sandbox import lifeline
from engine.sandbox.errors import SandboxError
from engine.sandbox.service import START_S_MAX, python_environment

DRAIN_S_MAX = 5
STOP_S_MAX = 15.0
_LOOK_S = 0.05
STATE_FILES = {
    "ENGINE_SUPERVISION_STATUS_FILE": "status.json",
    "ENGINE_SUPERVISION_CHECKPOINT_FILE": "checkpoint",
    "ENGINE_DELIVERY_BACKLOG_FOLDER": "backlog",
    "ENGINE_DELIVERY_DEAD_LETTER_FILE": "dead_letters.jsonl",
}
_TALKATIVE = {"ENGINE_LOG_FUNCTION_ERRORS": "true"}
"""Who tries a function wants to read its errors, and the values are their own."""
_OF_ANOTHER_SERVER = ("USERNAME", "USERNAME_FILE", "PASSWORD", "PASSWORD_FILE", "IAM", "TLS_CA_FILE", "TLS_CERT_FILE")
_ROUTE = """\
[[routes]]
name = "{name}"
function = "{name}"
keys = ["*"]
events = ["changes"]
"""


def settings_for(functions: Sequence[str]) -> str:
    """Return settings with which every change of every key goes to each of these functions."""
    return "\n".join(_ROUTE.format(name=name) for name in functions)


def engine_variables(redis_url: str, lambda_endpoint: str, state: Path, *, is_embedded: bool) -> dict[str, str]:
    """Return what counts for more than a settings file: the sandbox's parts, and state that is nobody else's.

    An embedded server wants none of the credentials that the file has for another one.
    """
    variables = {
        "ENGINE_REDIS_URL": redis_url,
        "ENGINE_AWS_LAMBDA_ENDPOINT_URL": lambda_endpoint,
        "ENGINE_SUPERVISION_STATE_FOLDER": str(state),
    }
    if is_embedded:
        variables |= {f"ENGINE_REDIS_{name}": "" for name in _OF_ANOTHER_SERVER}
    return variables | {name: str(state / file) for name, file in STATE_FILES.items()}


class RunningEngine:
    """The engine of a sandbox."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, config: str, environment: Mapping[str, str], state: Path) -> None:
        """Start it, and return when it is ready; raise `SandboxError` if it ends first."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.sandbox.running_engine", config, str(state)],
            stdin=subprocess.PIPE,
            env=python_environment(
                {**_TALKATIVE, **environment, "ENGINE_SUPERVISION_DRAIN_TIMEOUT_S": str(DRAIN_S_MAX)}
            ),
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            if not self.is_running():
                raise SandboxError("the engine ended before it was ready", hint="its own line above says why")
            if _state_in(state / "status.json") == "ready":
                return
            time.sleep(_LOOK_S)
        raise SandboxError(f"the engine was not ready within {START_S_MAX:.0f} s", hint="its own lines say more")

    def is_running(self) -> bool:
        """Tell whether it is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Drain it; does nothing if it is not there."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _state_in(status_file: Path) -> str:
    try:
        return str(json.loads(status_file.read_bytes()).get("state", ""))
    except (OSError, ValueError):
        return ""


def main() -> None:
    """Run the engine until it ends, until we are terminated, or until the sandbox is gone."""
    command = [sys.executable, "-m", "engine", "start", "--config", sys.argv[1]]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end(_number: int = 0, _frame: FrameType | None = None) -> None:
        process.terminate()

    def sandbox_is_gone() -> None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S_MAX)
        shutil.rmtree(sys.argv[2], ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    lifeline.watch_lifeline(sandbox_is_gone)
    code = process.wait()
    sys.stdout.flush()
    # Not by way of threads that wait: who watches the lifeline still does.
    os._exit(code)


if __name__ == "__main__":
    main()
