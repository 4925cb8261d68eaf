"""A console in a process of its own, over the status of an engine that the test makes up."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.config import RouteSettings, SupervisionSettings
from engine.ring.counters import Board, ChildState, Counter, GapReason
from engine.ring.lags import Stage
from engine.routing.routes import RouteTable
from engine.sandbox.ports import free_port
from engine.supervision.children import Children, Phase
from engine.supervision.report import StatusReport, describe
from tests.support import wait_for

MAIN = """
import sys
from engine.console.run import run_console
from engine.observe import logs
from engine.settings.file import load_settings
settings = load_settings(sys.argv[1], {"AWS_REGION": "us-east-1"}, {})
logs.configure(settings.log, "console")
sys.exit(run_console(settings, sys.stdin.fileno()))
"""


def status_of(pid: int, **changes: Any) -> dict[str, Any]:
    """Return the status of an engine of two subscribers and an invoker, as the supervisor would write it."""
    board, now_ms = Board(3), time.time_ns() // 1_000_000
    children = Children(2, 1, SupervisionSettings(), lambda: 0.5, 0)
    children.phase = Phase.READY
    report = StatusReport(board.rows)
    for child, row in zip(children.all, board.rows, strict=True):
        child.pid, child.forks, child.backlog_bytes = pid, 1, 4_096
        row.set_state(ChildState.READY)
        row.beat(time.monotonic_ns() // 1_000_000)
    for row in board.rows[:2]:
        row.add(Counter.EVENTS_READ, 5_000)
        row.add(Counter.EVENTS_ROUTED, 4_000)
        row.set(Counter.FEEDS, 1)
        row.set(Counter.FEEDS_PROVED, 1)
        row.lags.record(Stage.CAPTURED, 1, 5_000)
    board.row(0).count_gap(GapReason.DISCONNECTED)
    invoker = board.row(2)
    for counter, count in {
        Counter.RECORDS_DELIVERED: 7_990, Counter.INVOCATIONS: 20, Counter.INVOCATIONS_ACCEPTED: 16,
        Counter.INVOCATIONS_FAILED: 4, Counter.INVOCATIONS_THROTTLED: 1, Counter.INVOCATIONS_LOST: 2,
    }.items():  # fmt: skip
        invoker.add(counter, count)
    for stage, lag_ms in ((Stage.FETCHED, 3), (Stage.INVOKED, 4), (Stage.SETTLED, 31)):
        invoker.lags.record(stage, lag_ms, 7_990)
    table = RouteTable.build((RouteSettings("carts", "dynamodb", keys=("cart:*",)),), None)
    node = {
        "number": 0, "id": "", "address": "127.0.0.1:6379", "reads_at": "", "slots": "", "shards": [0, 1],
        "feeds": [{"shard": 0, "keys": "\\x00-m", "settled_age_ms": 900},
                  {"shard": 1, "keys": "n-\\xff", "settled_age_ms": 400}],
        "settled_until_ms": now_ms - 900, "settled_age_ms": 900, "heard_until_ms": now_ms - 800, "slots_owed": 0,
    }  # fmt: skip
    status = report.make(
        lambda **when: describe(children, board.rows, table, part="0/1", snapshots={}, **when),
        {"settled_until_ms": now_ms - 900, "nodes": [node]},
        {"deletions_held": 0, "deletions": []},
    )
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(status | {"pid": pid}))
    return decoded | changes


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: str


class ConsoleUnderTest:
    """Asks it, and writes what it reads."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], url: str, errors: Path) -> None:
        self.folder, self.process, self.url, self.errors = folder, process, url, errors
        self.context: ssl.SSLContext | None = None
        self._status: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def write(self, status: Mapping[str, Any] | None = None) -> None:
        """Write this status, or the one before once more: one that is not written again counts as left behind."""
        with self._lock:
            self._status = status or self._status
            draft = self.folder / "status.new"
            draft.write_text(json.dumps({**self._status, "updated_at_ms": time.time_ns() // 1_000_000}))
            draft.replace(self.folder / "status.json")

    def keep_writing(self, is_over: threading.Event) -> None:
        """Do as the supervisor does: write it once a second, until it is over."""
        while not is_over.wait(1.0):
            self.write()

    def get(self, path: str, headers: Mapping[str, str] = {}, method: str = "GET") -> Answer:
        request = urllib.request.Request(self.url + path, headers=dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=self.context) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read().decode())

    def is_there(self) -> bool:
        assert self.process.poll() is None, self.errors.read_text()
        try:
            return self.get("/healthz").status > 0
        except OSError:
            return False


@contextmanager
def console(folder: Path, settings: str = "", listen: str = "") -> Iterator[ConsoleUnderTest]:
    """Run a console with these further settings of its section, over a status that is well."""
    where = listen or f"127.0.0.1:{free_port('the console')}"
    config = folder / "engine.toml"
    config.write_text(
        f'[supervision]\nstate_folder = "{folder}"\n[console]\nlisten = "{where}"\n{settings}\n'
        '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'
    )
    errors = folder / "errors"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, str(config)], stdin=subprocess.PIPE, stderr=log, env=dict(os.environ)
        )
    scheme = "https" if "tls_cert_file" in settings else "http"
    running = ConsoleUnderTest(folder, process, f"{scheme}://{where}", errors)
    running.write(status_of(os.getpid()))
    is_over = threading.Event()
    writer = threading.Thread(target=running.keep_writing, args=(is_over,))
    writer.start()
    try:
        yield running
    finally:
        is_over.set()
        writer.join()
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def answering_console(folder: Path, settings: str = "") -> Iterator[ConsoleUnderTest]:
    """Run one that answers already."""
    with console(folder, settings) as running:
        wait_for(running.is_there, "the console answers")
        yield running
