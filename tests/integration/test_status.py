"""`engine status` on a real engine: what it says while a function is down, and while the whole keyspace is read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from engine.sandbox.functions.spec import FunctionSpec
from tests.support import PathUnderTest, wait_for, whole_path

ROUTE = '[[routes]]\nname = "carts"\nfunction = "gate"\nevents = ["changes"]\n'


def engine(path: PathUnderTest, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments, "--config", str(path.config)]
    return subprocess.run(command, env=path.environment, capture_output=True, text=True, timeout=60, check=False)


def health(path: PathUnderTest) -> dict[str, Any]:
    said = engine(path, "status", "--json")
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)["health"]
    return found


def gate(marker: Path) -> FunctionSpec:
    return FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(marker)})


def test_a_function_that_is_down_is_named_with_its_error(tmp_path: Path) -> None:
    """While a function fails, status names route and error and an age that grows; afterwards it is well again."""
    marker = tmp_path / "healed"
    with whole_path(tmp_path, functions=[gate(marker)]) as path:
        path.write_config(ROUTE, shards=1, invokers=1)
        path.start()
        wait_for(lambda: health(path)["condition"] == "well", "well at first")
        for number in range(100):
            path.client.hset(f"cart:{number}", "n", number)
        topic = "route-failing"
        wait_for(lambda: topic in [one["topic"] for one in health(path)["findings"]], "the route is said to fail")
        first = health(path)["findings"][0]
        assert (first["condition"], first["topic"]) == ("not well", topic)
        assert "route carts has failed for" in first["what"] and "the gate is shut" in first["what"]
        wait_for(lambda: path.status()["updated_at_ms"] - path.status()["routes"][0]["oldest_ms"] > 3_000, "it ages")
        shown = engine(path, "status").stdout
        assert shown.startswith("not well: route carts has failed for")
        assert "last error of carts" in shown and "the gate is shut" in shown
        (row,) = [line for line in shown.splitlines() if line.strip().startswith("carts ")]
        assert "failing for" in row and "changes" in row
        marker.write_text("yes")
        wait_for(lambda: health(path)["condition"] == "well", "well again")
        (route,) = path.status()["routes"]
        assert (route["failing_since_ms"], route["oldest_ms"], route["keys_waiting"]) == (0, 0, 0)
        assert "the gate is shut" in route["error"]
        assert path.stop() == 0


def test_a_watch_in_a_pipe_is_a_line_each_time(tmp_path: Path) -> None:
    """`--watch` writes whole lines to a pipe, goes on when the engine ends, and ends with 0 at an interrupt."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE.replace("gate", "accept"), shards=1, invokers=1)
        path.start()
        command = [sys.executable, "-m", "engine", "status", "--watch", "--config", str(path.config)]
        # A shell's background jobs ignore interrupts, and so would what a test that is one starts.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        watching = subprocess.Popen(command, env=path.environment, stdout=subprocess.PIPE, text=True, preexec_fn=heed)
        assert watching.stdout is not None
        try:
            lines = iter(watching.stdout.readline, "")
            assert any(" well: everything that changed until " in line for line in lines)
            assert path.stop() == 0
            assert any(" not well: no engine runs here" in line for line in lines)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == 0
        finally:
            watching.kill()
            watching.wait()
            watching.stdout.close()
