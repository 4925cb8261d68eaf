"""The whole engine with a function that refuses older versions by itself, and then no longer does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from tests.support import PathUnderTest, wait_for, whole_path

ROUTE = """\
[[routes]]
name = "all"
function = "promising"
events = ["*"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[PathUnderTest]:
    markers = {name: str(tmp_path / name.lower()) for name in ("REFUSES", "HANGS")}
    Path(markers["REFUSES"]).touch()
    spec = FunctionSpec("promising", "tests.functions:promising", environment=markers)
    with whole_path(tmp_path, functions=[spec]) as path:
        path.write_config(ROUTE)
        yield path


def configure(path: PathUnderTest, deadline_ms: int) -> None:
    text = path.config.read_text()
    path.config.write_text(text.replace("[delivery]\n", f"[delivery]\ndeadline_ms = {deadline_ms}\n", 1))


def test_after_a_crash_nothing_is_waited_for(path: PathUnderTest) -> None:
    """Keys in flight go out again at once, though an invocation with them may run for minutes yet."""
    configure(path, 300_000)
    path.start()
    (path.folder / "hangs").touch()
    path.client.hset("key", "f", "1")
    wait_for(lambda: path.totals()["keys_in_flight"], "an invocation that hangs")
    wait_for(lambda: (path.folder / "checkpoint").exists(), "a checkpoint")
    assert path.engine is not None
    for process in (*psutil.Process(path.engine.pid).children(recursive=True), path.engine):
        process.kill()
    path.engine.wait()
    (path.folder / "status.json").unlink()
    (path.folder / "hangs").unlink()
    before = len(path.records())
    path.start()
    wait_for(lambda: len(path.records()) > before, "the key again, without its fence of five minutes")
    assert path.invocations()[-1]["event"]["unfenced"] is True


def test_a_function_may_stop_refusing_while_the_engine_runs(path: PathUnderTest) -> None:
    """Its first unfenced batch is refused whole; the routes are read again, and what follows is fenced."""
    configure(path, 800)
    path.start()
    path.client.hset("key", "f", "1")
    wait_for(lambda: path.last().get(b"key") == {"f": "1"}, "a value without a fence")
    (path.folder / "refuses").unlink()
    path.client.hset("key", "f", "2")

    def fenced() -> bool:
        events = [one["event"] for one in path.invocations()]
        return any("unfenced" not in event for event in events) and path.totals()["keys_in_flight"] == 0

    wait_for(fenced, "a value with a fence")
    assert path.last()[b"key"] == {"f": "2"}
    assert "FenceWanted" in path.log()
    assert path.totals()["dead_letters"] == 0
    (path.folder / "refuses").touch()
    assert path.stop() == 0
