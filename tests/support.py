"""A real engine on a real server with a recording function, for the tests of the whole path."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import redis

from engine.capture.watch.trust import IDLE_MARGIN_S
from engine.sandbox.demo import clean_environment
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.stack import child_environment, sandbox_environment
from engine.sandbox.valkey import ValkeyServer

WAIT_S = 60.0

BASE = """\
[redis]
url = "{redis_url}"
[capture]
shards = {shards}
[delivery]
invokers = {invokers}
retry_backoff_ms_max = 500
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
drain_timeout_s = 30.0
"""

ROUTE = """\
[[routes]]
name = "all"
function = "accept"
events = ["*", "del", "expired"]
"""


def wait_for(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Poll until the condition holds; what it says is returned."""
    deadline = time.monotonic() + wait_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"did not come about: {what}"
        time.sleep(0.02)
    return result


def come_to_rest(client: Any, key: str) -> None:
    """Wait until this key, and all that were used before it, are idle for longer than any gap is believed to reach.

    Idle times are whole seconds, and believed with a margin: what has just been written counts as changed in a gap that
    begins soon after.
    """
    wait_for(lambda: client.object("idletime", key) > IDLE_MARGIN_S + 2, f"{key} is at rest")


@dataclass
class PathUnderTest:
    """Server, runtime and engine under test."""

    server: ValkeyServer
    runtime: LambdaRuntime
    folder: Path
    environment: dict[str, str]
    engine: subprocess.Popen[str] | None = None
    arguments: Sequence[str] = field(default=())

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.server.port)

    @property
    def config(self) -> Path:
        return self.folder / "engine.toml"

    def write_config(self, text: str, *, shards: int = 2, invokers: int = 2) -> None:
        head = BASE.format(redis_url=self.server.url, folder=self.folder, shards=shards, invokers=invokers)
        self.config.write_text(head + text)

    def start(self, *arguments: str) -> None:
        """Start the engine and wait until it is ready."""
        self.launch(*arguments)
        wait_for(lambda: self.is_over() or self.status().get("state") == "ready", "ready")
        assert not self.is_over(), self.log()

    def launch(self, *arguments: str) -> None:
        log = (self.folder / "engine.log").open("a")
        command = [sys.executable, "-m", "engine", "start", "--config", str(self.config), *arguments]
        self.engine = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, text=True, cwd=self.folder
        )

    def is_over(self) -> bool:
        assert self.engine is not None
        return self.engine.poll() is not None

    def log(self) -> str:
        return (self.folder / "engine.log").read_text()

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return status

    def totals(self) -> dict[str, int]:
        totals: dict[str, int] = self.status()["totals"]
        return totals

    def node(self) -> dict[str, Any]:
        """Return what the status says of the one node."""
        (node,) = self.status()["nodes"]
        return dict(node)

    def child(self, name: str) -> psutil.Process:
        """Return a child of the engine by its title, as in ``invoker 1/2``."""
        assert self.engine is not None
        for process in psutil.Process(self.engine.pid).children():
            with contextlib.suppress(psutil.Error):  # one that was just killed has no command line any more
                if " ".join(process.cmdline()).strip() == f"engine: {name}":
                    return process
        raise AssertionError(f"no {name} among the children")

    def invocations(self) -> list[dict[str, Any]]:
        journal = self.folder / "journal.jsonl"
        if not journal.exists():
            return []
        lines = journal.read_bytes().split(b"\n")[:-1]
        invocations = [orjson.loads(line) for line in lines]
        # The empty batch is the engine's question before the start.
        return [one for one in invocations if one["event"] != {"records": []}]

    def records(self) -> list[dict[str, Any]]:
        """Return all records that the function was given, in order of arrival."""
        found: list[dict[str, Any]] = []
        for invocation in sorted(self.invocations(), key=lambda one: one["started_ns"]):
            event = invocation.get("event") or {}
            found.extend(event.get("records", [event]))
        return found

    def last(self) -> dict[bytes, Any]:
        """Return what a destination would hold: each key's last value."""
        held: dict[bytes, Any] = {}
        for record in self.records():
            key = record["id"].encode()
            if record.get("id_encoding") == "base64":
                key = base64.b64decode(record["id"])
            held[key] = None if record["body"] is None else orjson.loads(record["body"])
        return held

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Drain the engine; return its exit status."""
        assert self.engine is not None
        if not self.is_over():
            self.engine.send_signal(number)
        return self.engine.wait(WAIT_S)


@contextmanager
def whole_path(
    folder: Path,
    *,
    functions: Sequence[FunctionSpec] = (FunctionSpec("accept", "accept"),),
    environment: Mapping[str, str] | None = None,
    server_config: Mapping[str, str | Sequence[str]] | None = None,
    binary: Path | None = None,
) -> Iterator[PathUnderTest]:
    """Run a server and a recording runtime; the engine is started by the test, and ended here."""
    journal = folder / "journal.jsonl"
    with (
        ValkeyServer(binary=binary, config=server_config) as server,
        LambdaRuntime(list(functions), journal=journal, journal_payloads=True) as runtime,
    ):
        ours = sandbox_environment(lambda_endpoint=runtime.endpoint)
        variables = clean_environment(child_environment(os.environ, ours))
        variables.update(environment or {})
        path = PathUnderTest(server, runtime, folder, variables)
        try:
            yield path
        finally:
            if path.engine is not None and not path.is_over():
                path.engine.kill()
                path.engine.wait()
