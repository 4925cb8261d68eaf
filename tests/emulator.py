"""A function under Lambda's own runtime: its runtime client, `awslambdaric`, behind its interface emulator.

Where the emulator that `tests/parts/lambda_rie.py` fetches differs from the service:

- A function's error shows in the body alone, without ``X-Amz-Function-Error``.
- Running out of time is HTTP 200 with a bare text, as is everything but a process that ended: that is a 502, in the
  service a function error.
- A dry run hands the runtime an empty payload, which it refuses before it calls the handler; the emulator answers 200.
- It runs one invocation at a time, and crashes when a second one comes meanwhile: a route to it has
  ``parallelization_factor = 1``, and the engine one invoker.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from engine.sandbox.ports import free_port
from tests.support import wait_for

ROOT = Path(__file__).parents[1]
BINARY = Path(sys.prefix) / "share" / "aws-lambda-rie"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


def _lack() -> str:
    if not BINARY.exists():
        return "no aws-lambda-rie: `make emulator` fetches it, for Linux"
    return "" if importlib.util.find_spec("awslambdaric") else "no awslambdaric: `make setup` installs it, on Linux"


needs_emulator = pytest.mark.skipif(bool(_lack()), reason=_lack())


@contextmanager
def emulator(handler: str, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Yield the endpoint at which the function named ``function`` answers; what it prints goes to ``log``."""
    port, inner = free_port("the emulator"), free_port("the runtime's interface")
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    addresses += ["--runtime-api-address", f"127.0.0.1:{inner}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BINARY), *addresses, sys.executable, "-m", "awslambdaric", handler],
            env={"PATH": os.environ["PATH"], "AWS_LAMBDA_FUNCTION_NAME": "function", **CREDENTIALS, **environment},
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )
    try:
        wait_for(lambda: process.poll() is not None or _is_open(port), "the emulator")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        # The runtime has a process group of its own, and a busy one would outlive the emulator.
        runtimes = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for runtime in runtimes:
            runtime.kill()
        psutil.wait_procs(runtimes)


def _is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
