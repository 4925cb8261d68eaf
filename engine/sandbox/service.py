"""The parent's side of a sandbox process: start, wait until ready, stop; never left behind."""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from engine.sandbox import ports
from engine.sandbox.errors import SandboxError

START_S_MAX = 60.0
STOP_S_MAX = 5.0


class Service:
    """A Python module that runs as a server process on a loopback port.

    The socket is bound here and inherited by the child: the port is known before the child runs, a port in use is
    noticed at once, and early connections wait in the backlog instead of being refused. The child holds to
    :mod:`engine.sandbox.lifeline`.
    """

    def __init__(self, module: str, part: str, port: int) -> None:
        self._module = module
        self._part = part
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self.port = 0

    @property
    def endpoint(self) -> str:
        """Return the URL at which the service answers."""
        return f"http://{ports.HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Return the process id; the service must have been started."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def instructions(self) -> dict[str, Any]:
        """Return what the child is told, beside its socket; plain JSON values."""
        return {}

    def bind(self) -> socket.socket:
        """Return the listening socket; from here on the port is known, and stays the same over restarts."""
        listener = ports.listen(self.port or self._wanted_port, self._part)
        self.port = int(listener.getsockname()[1])
        return listener

    def launch(self, listener: socket.socket, environment: Mapping[str, str] | None = None) -> None:
        """Start the process on a socket from :meth:`bind`, without waiting for it."""
        with listener:
            told = self.instructions() | {"socket": listener.fileno()}
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                env=python_environment(os.environ if environment is None else environment),
                # Ctrl-C is the parent's to handle: it stops the parts in order.
                start_new_session=True,
            )
        atexit.register(self._stop_at_exit)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once: wait_ready says so

    def wait_ready(self, wait_s_max: float = START_S_MAX) -> None:
        """Return when the process answers requests; raise SandboxError, with the process gone, if it does not."""
        answer = self._first_line(time.monotonic() + wait_s_max)
        if answer and json.loads(answer)["ready"]:
            return
        ended = self._process is not None and self._process.poll()
        self.kill()
        if answer:
            failure = json.loads(answer)
            raise SandboxError(failure["message"], hint=failure["hint"])
        reason = f"did not answer within {wait_s_max:.0f} s" if ended is None else "ended while starting"
        raise SandboxError(f"{self._part} {reason}", hint="its own output says more")

    def _first_line(self, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        line = b""
        while not line.endswith(b"\n"):
            wait_s = deadline - time.monotonic()
            if wait_s <= 0 or not select.select([descriptor], [], [], wait_s)[0]:
                return b""
            chunk = os.read(descriptor, 4096)
            if not chunk:
                return b""
            line += chunk
        return line

    def start(self) -> Self:
        """Start the process, and return when it answers."""
        self.launch(self.bind())
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End the process, gently if it lets us; does nothing when it is not there."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the process with SIGKILL; does nothing when it is not there."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
        atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        # A forked child of ours ends with our exit handlers, but the process is not its to stop.
        if os.getpid() == self._owner_pid:
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def python_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return ``base`` with a path on which children find this very copy of the engine, after their own."""
    root = str(Path(__file__).resolve().parents[2])
    path = [entry for entry in base.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return dict(base) | {"PYTHONPATH": os.pathsep.join([*path, root])}
