"""The supervisor over its real children, on the embedded stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from engine.sandbox.ports import free_port
from engine.sandbox.stack import Sandbox

WAIT_S = 45.0
ROUTE = '[[routes]]\nname = "{name}"\nfunction = "{function}"\nkeys = ["{keys}"]\n'


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


class Engine:
    """``engine start`` in a process of its own."""

    def __init__(self, folder: Path, sandbox: Sandbox, console: str = "", **route: str) -> None:
        self.folder, self.config = folder, folder / "engine.toml"
        self.config.write_text(
            f'[redis]\nurl = "{sandbox.redis_url}"\n'
            f'[supervision]\nstatus_file = "{folder}/status.json"\ncheckpoint_file = "{folder}/checkpoint"\n'
            f'[delivery]\ndead_letter_file = "{folder}/dead_letters"\nbacklog_folder = "{folder}/backlog"\n'
            f'[console]\nlisten = "{console}"\n'
        )
        self.add_route(**{"name": "carts", "function": "dynamodb", "keys": "cart:*", **route})
        self.errors = folder / "errors"
        environment = {**os.environ, **sandbox.environment}
        environment.pop("REDIS_URL", None)
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "start", "--config", str(self.config)],
                env=environment,
                stderr=errors,
            )

    def add_route(self, **route: str) -> None:
        with self.config.open("a") as file:
            file.write(ROUTE.format(**route))

    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not reached: {what}\n{self.errors.read_text()}"
            time.sleep(0.05)

    def until_ready(self) -> Engine:
        self.until(lambda: self.status().get("state") == "ready", "ready")
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(tmp_path: Path, sandbox: Sandbox) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def begin(**route: str) -> Engine:
        engines.append(Engine(tmp_path, sandbox, **route))
        return engines[-1]

    yield begin
    for engine in engines:
        if engine.process.poll() is None:
            engine.process.kill()
        engine.process.wait(WAIT_S)


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def title_of(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_killed_engine_leaves_nothing(start: Callable[..., Engine]) -> None:
    """When the supervisor is killed, its subscribers and invokers end by themselves."""
    engine = start().until_ready()
    children = engine.children()
    assert len(children) == 3
    engine.process.kill()
    engine.process.wait(WAIT_S)
    engine.until(lambda: not any(is_running(child) for child in children), "no orphans")


def test_a_function_that_does_not_exist(start: Callable[..., Engine]) -> None:
    """A route to a function that is not there ends the start with one line of its own and exit status 1."""
    engine = start(function="nowhere")
    assert engine.process.wait(WAIT_S) == 1
    # Before it the log says where the connection's settings came from.
    *logged, line = engine.errors.read_text().splitlines()
    assert [one.split()[2:4] for one in logged] == [["]", "connection"]], logged
    assert line.startswith("engine: error: route 'carts': no such function: nowhere")


def test_a_new_route_delivers_without_a_restart(start: Callable[..., Engine], sandbox: Sandbox) -> None:
    """After SIGHUP keys of a new route are delivered; a killed invoker's successor knows it too."""
    engine = start().until_ready()
    with redis.Redis.from_url(sandbox.redis_url) as client:
        client.hset("person:1", "name", "Ada")
        engine.add_route(name="people", function="dynamodb", keys="person:*")
        engine.process.send_signal(signal.SIGHUP)
        engine.until(lambda: engine.status().get("routes_version") == 2, "the new table")
        engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the routes are in force")
        client.hset("person:2", "name", "Grace")
        engine.until(lambda: engine.status()["totals"]["records_delivered"] == 1, "the first delivery")
        invoker = next(one for one in engine.status()["children"] if one["role"] == "invoker")
        os.kill(invoker["pid"], signal.SIGKILL)
        client.hset("person:3", "name", "Joan")
        engine.until(lambda: engine.status()["totals"]["records_delivered"] >= 2, "the second delivery")
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(WAIT_S) == 0


def test_lags_outlive_a_killed_process(start: Callable[..., Engine], sandbox: Sandbox) -> None:
    """Every record's lag is counted by stage, the last minute's as well, and a killed invoker takes none with it."""
    engine = start().until_ready()

    def counted(stage: str) -> int:
        return sum(count for _, count in engine.status()["lag"][stage]["buckets"])

    with redis.Redis.from_url(sandbox.redis_url) as client:
        for number in range(20):
            client.hset(f"cart:{number}", "name", "Ada")
        engine.until(lambda: counted("settled") == engine.status()["totals"]["records_delivered"] >= 20, "all lags")
        invoker = next(one for one in engine.status()["children"] if one["role"] == "invoker")
        os.kill(invoker["pid"], signal.SIGKILL)
        client.hset("cart:1", "name", "Grace")
        engine.until(lambda: counted("settled") >= 21, "the successor's lag")
    engine.until(lambda: counted("captured") >= 21, "a pong behind each event")
    status = engine.status()
    assert counted("fetched") >= counted("invoked") >= 21
    minute = status["last_minute"]
    assert minute["lag_ms"]["settled"]["count"] == minute["counts"]["records_delivered"] >= 21
    totals = status["totals"]
    assert totals["feeds_proved"] == totals["feeds"] == 2


def test_a_killed_console_hurts_nobody(start: Callable[..., Engine]) -> None:
    """A console that is killed is replaced, and no other process is; it ends with its supervisor."""
    port = free_port("the console")
    engine = start(console=f"127.0.0.1:{port}").until_ready()

    def console() -> psutil.Process | None:
        return next((one for one in engine.children() if title_of(one) == "engine: console"), None)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    engine.until(answers, "the console answers")
    first, others = console(), [child["pid"] for child in engine.status()["children"]]
    assert first is not None
    first.kill()
    engine.until(lambda: console() not in (None, first) and answers(), "another console answers")
    assert [child["pid"] for child in engine.status()["children"]] == others
    second = console()
    assert second is not None
    engine.process.kill()
    engine.process.wait(WAIT_S)
    engine.until(lambda: not is_running(second), "no orphan")
