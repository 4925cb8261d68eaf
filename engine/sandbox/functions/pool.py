"""The worker processes of one function: started on demand up to its concurrency, then kept warm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.sandbox import aws
from engine.sandbox.functions import frames
from engine.sandbox.functions.log import LogLines, say
from engine.sandbox.functions.sources import Sources
from engine.sandbox.functions.spec import MEMORY_MB, FunctionSpec
from engine.sandbox.service import python_environment

INIT_S_MAX = 60.0
_READ_BUFFER_BYTES = 8 * 1024 * 1024
_EXIT_S_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an invocation. ``error`` names the function's error; ``invalid`` means that nothing was run.

    ``records`` is None if no worker has said how many there were.
    """

    body: bytes
    records: int | None = None
    error: str = ""
    invalid: bool = False


class InitFailed(Exception):
    """The handler can't be imported; carries the body that tells the caller."""

    def __init__(self, body: bytes) -> None:
        super().__init__(json.loads(body)["errorMessage"])
        self.body = body


class WorkerEnded(Exception):
    """The worker's process ended before it had answered."""


class Worker:
    """One process that has imported the handler."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.files: list[str] = []
        """What the handler was imported from."""

    @classmethod
    async def start(cls, spec: FunctionSpec, environment: Mapping[str, str]) -> Worker:
        """Start a process; return once the handler is imported, raise InitFailed if it can't be."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "engine.sandbox.functions.worker",
                    str(theirs.fileno()),
                    *spec.module_and_function,
                ],
                stdin=subprocess.PIPE,  # the lifeline
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,  # so that it goes together with what it has started
            )
        await asyncio.get_running_loop().connect_read_pipe(lambda: LogLines(spec.name), process.stdout)
        reader, writer = await asyncio.open_connection(sock=ours, limit=_READ_BUFFER_BYTES)
        worker = cls(process, reader, writer)
        try:
            async with asyncio.timeout(INIT_S_MAX):
                head, body = await frames.read(reader)
        except TimeoutError:
            worker.kill()
            raise InitFailed(_error("Runtime.InitTimeout", f"not imported within {INIT_S_MAX:.0f} s")) from None
        except (OSError, asyncio.IncompleteReadError):
            status = await worker.exit_status()
            message = f"the process ended with {status} while it imported the handler"
            raise InitFailed(_error("Runtime.ExitError", message)) from None
        if head["kind"] == "failed":
            worker.kill()
            raise InitFailed(body)
        worker.files = head.get("files", [])
        return worker

    def is_alive(self) -> bool:
        """Return whether the worker can be asked."""
        return not self._reader.at_eof() and self._process.poll() is None

    async def ask(self, head: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Have an event handled; raise WorkerEnded if the process ends meanwhile."""
        try:
            self._writer.write(frames.encode_head(head, len(payload)))
            self._writer.write(payload)
            await self._writer.drain()
            return await frames.read(self._reader)
        except (OSError, asyncio.IncompleteReadError):
            raise WorkerEnded from None

    async def exit_status(self) -> int:
        """Return with what the process ended; it has closed its socket, and so is about to."""
        deadline = time.monotonic() + _EXIT_S_MAX
        while self._process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        self.kill()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """End the process, and whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._writer.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


class WorkerPool:
    """The workers of one function. As many are busy as there are invocations under way."""

    def __init__(self, spec: FunctionSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = worker_environment(spec, environment)
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._under_way = 0
        self._room = asyncio.Event()
        self._sources = Sources()
        self._stale: set[Worker] = set()
        """Busy ones that run what was imported before a file changed."""

    async def warm(self) -> None:
        """Start the first worker; raise InitFailed if the handler can't be imported."""
        self._idle.append(await self._start_worker())

    async def reload(self) -> None:
        """Import the handler anew where a file of it changed; what is under way ends as it began."""
        changed = self._sources.changed()
        if not changed:
            return
        names = ", ".join(sorted({Path(file).name for file in changed}))
        for worker in self._idle:
            self._discard(worker)
        self._idle.clear()
        self._stale |= self._workers
        try:
            self._idle.append(await self._start_worker())
            say(self.spec.name, f"{names} changed: imported again")
        except InitFailed as failure:
            say(self.spec.name, f"{names} changed, and {self.spec.handler} does not import: {failure}")

    def has_room(self) -> bool:
        """Return whether another invocation may start now."""
        return self._under_way < self.spec.concurrency_max

    async def wait_for_room(self) -> None:
        """Return when an invocation may start."""
        while not self.has_room():
            self._room.clear()
            await self._room.wait()

    async def invoke(self, request_id: str, payload: bytes, client_context: str = "") -> Answer:
        """Handle an event; there must be room. ``client_context`` is a JSON text, "" for none."""
        assert self.has_room()
        self._under_way += 1
        try:
            worker = self._take_idle() or await self._start_worker()
            return await self._run(worker, request_id, payload, client_context)
        except InitFailed as failure:
            return Answer(failure.body, error=json.loads(failure.body)["errorType"])
        finally:
            self._under_way -= 1
            self._room.set()

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        self._idle.clear()

    async def _start_worker(self) -> Worker:
        worker = await Worker.start(self.spec, self._environment)
        self._workers.add(worker)
        if self.spec.reloads:
            self._sources.note(worker.files)
        return worker

    def _take_idle(self) -> Worker | None:
        # The one used last: the others' memory may be left alone, as in Lambda.
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            self._discard(worker)
        return None

    def _discard(self, worker: Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        self._stale.discard(worker)

    async def _run(self, worker: Worker, request_id: str, payload: bytes, client_context: str) -> Answer:
        deadline_ms = (time.time() + self.spec.timeout_s) * 1000
        head = {"request_id": request_id, "arn": self.spec.arn, "deadline_ms": deadline_ms}
        if client_context:
            head["client_context"] = client_context
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                told, body = await worker.ask(head, payload)
        except TimeoutError:
            self._discard(worker)
            return self._timed_out(request_id)
        except WorkerEnded:
            status = await worker.exit_status()
            self._discard(worker)
            message = f"RequestId: {request_id} Error: Runtime exited with error: exit status {status}"
            return Answer(_error("Runtime.ExitError", message), error="Runtime.ExitError")
        if worker in self._stale:
            self._discard(worker)
        else:
            self._idle.append(worker)
        if told["kind"] == "invalid":
            return Answer(body, invalid=True)
        return Answer(body, told["records"], told.get("error", ""))

    def _timed_out(self, request_id: str) -> Answer:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        message = f"{now}Z {request_id} Task timed out after {self.spec.timeout_s:.2f} seconds"
        return Answer(_error("Sandbox.Timedout", message), error="Sandbox.Timedout")


def worker_environment(spec: FunctionSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's variables: as in Lambda, none of the caller's AWS settings, and the function's own last."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    told = {
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
        "PYTHONUNBUFFERED": "1",
    }
    return python_environment(inherited | aws.sandbox_environment() | dict(environment) | told | dict(spec.environment))


def _error(error_type: str, message: str) -> bytes:
    return json.dumps({"errorMessage": message, "errorType": error_type, "stackTrace": []}).encode()
