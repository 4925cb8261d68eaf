"""Signals as they come in life: to the whole process group, from who starts and ends an engine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.ports import free_port
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

SLOW = """\
[[routes]]
name = "all"
function = "slow"
batch_size = 10
parallelization_factor = 1
"""
KEYS = 200


def launch_in_a_group(path: PathUnderTest, *prefix: str) -> None:
    with (path.folder / "engine.log").open("a") as log:
        command = [*prefix, sys.executable, "-m", "engine", "start", "--config", str(path.config)]
        path.engine = subprocess.Popen(
            command, env=path.environment, stdout=log, stderr=log, text=True, cwd=path.folder, start_new_session=True
        )
    wait_for(lambda: path.is_over() or path.status().get("state") == "ready", "ready")


def end_by_the_group(path: PathUnderTest) -> None:
    assert path.engine is not None
    os.killpg(path.engine.pid, signal.SIGTERM)


def end_by_timeout(path: PathUnderTest) -> None:
    """Have `timeout` do what it does at its time: it signals the command, and then the group, the command in it."""
    assert path.engine is not None
    path.engine.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("way", ["a signal to the group", "timeout"])
def test_a_signal_to_the_whole_group_is_one_drain(tmp_path: Path, way: str) -> None:
    """Children leave the drain to the supervisor: none ends early or is replaced, and all that waits is delivered."""
    prefix = ("timeout", "600") if way == "timeout" else ()
    if prefix and not shutil.which("timeout"):
        pytest.skip("there is no timeout here")
    functions = (FunctionSpec("slow", "tests.functions:slow"),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(SLOW)
        launch_in_a_group(path, *prefix)
        assert path.engine is not None
        family = psutil.Process(path.engine.pid).children(recursive=True)
        for number in range(KEYS):
            path.client.hset(f"key:{number}", "n", number)
        end_by_timeout(path) if prefix else end_by_the_group(path)
        assert path.engine.wait(60) == 0, path.log()
        assert len(path.last()) == KEYS
        assert "drained" in path.log()
        for word in ("child_replaced", "child_ended", "stopped"):
            assert word not in path.log()
        wait_for(lambda: not any(one.is_running() for one in family), "the end of all")


def test_the_log_level_changes_without_a_restart(tmp_path: Path) -> None:
    """SIGUSR1 to the whole group is one switch to debug, in every process, and the next one switches back."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        launch_in_a_group(path)
        assert path.engine is not None
        os.killpg(path.engine.pid, signal.SIGUSR1)
        wait_for(lambda: path.status().get("log_level") == "debug", "debug")
        os.killpg(path.engine.pid, signal.SIGUSR1)
        wait_for(lambda: path.status().get("log_level") == "info", "info")
        assert path.log().count("log_level ") == 2
        assert path.stop() == 0
        for word in ("child_replaced", "child_ended"):
            assert word not in path.log()


def test_an_idle_child_waits_for_its_turn(tmp_path: Path) -> None:
    """Invokers with nothing to do stay until the subscribers have drained, whatever signal reaches them."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        launch_in_a_group(path)
        assert path.engine is not None
        slow, invokers = path.child("subscriber 1/2"), [path.child(f"invoker {n}/2") for n in (1, 2)]
        slow.suspend()
        try:
            os.killpg(path.engine.pid, signal.SIGTERM)
            wait_for(lambda: path.status().get("state") == "draining", "the drain")
            begun_ms = path.status()["updated_at_ms"]
            wait_for(lambda: path.status()["updated_at_ms"] > begun_ms + 500, "another look of the supervisor's")
            assert all(invoker.is_running() for invoker in invokers)
        finally:
            slow.resume()
        assert path.engine.wait(60) == 0, path.log()
        assert "child_replaced" not in path.log()


def test_the_console_follows_the_log_level(tmp_path: Path) -> None:
    """The console that runs switches with the others, both ways, and one that replaces it has the level of now."""
    with whole_path(tmp_path) as path:
        address = f"127.0.0.1:{free_port('the console')}"
        path.write_config(f'[console]\nlisten = "{address}"\n{ROUTE}')
        path.start()
        assert path.engine is not None

        def asked(word: str) -> bool:
            """Ask for a page of this name, and tell whether the console says so."""
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{address}/{word}", timeout=20)
            return f"path=/{word}" in path.log()

        def is_level(level: str) -> bool:
            return bool(path.status().get("log_level") == level)

        wait_for(lambda: "listen=" in path.log(), "the console listens")
        assert not asked("quiet")
        path.engine.send_signal(signal.SIGUSR1)
        wait_for(lambda: asked("more"), "the console says what it is asked")
        path.child("console").kill()
        wait_for(lambda: path.log().count("listen=") == 2, "another console listens")
        wait_for(lambda: asked("again"), "this one says it as well")
        path.engine.send_signal(signal.SIGUSR1)
        wait_for(lambda: is_level("info"), "info")
        wait_for(lambda: not asked(f"less{time.monotonic_ns()}"), "the console says no more")
        assert path.stop() == 0
