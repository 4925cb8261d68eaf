"""Marks of a redrive, published to a running engine that loses what it heard: none may be lost with it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.delivery.failures.dead_letter import DeadLetter, FileSink
from engine.redrive.run import Summary, redrive
from engine.sandbox.functions.runtime import FunctionSpec
from engine.settings.file import load_settings
from engine.supervision.progress.checkpoint import CheckpointFile
from tests.support import WAIT_S, PathUnderTest, wait_for, whole_path

IDLE_S = 1_000
ROUTE = """\
[[routes]]
name = "all"
function = "gate"
events = ["*", "del"]
"""
SOON = {"ENGINE_DELIVERY_DEADLINE_MS": "1000", "ENGINE_DELIVERY_DEADLINE_MARGIN_MS": "500"}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[PathUnderTest]:
    """A server, a function that works as long as the file ``healed`` is there, and an engine that has started."""
    healed = tmp_path / "healed"
    healed.touch()
    gate = FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(healed)})
    with whole_path(tmp_path, functions=[gate], environment=SOON) as running:
        running.write_config(ROUTE, shards=1, invokers=1)
        running.start()
        yield running


def write_long_ago(path: PathUnderTest, key: str) -> None:
    """Write a key whose idle time is longer than any gap of this test, and have it delivered."""
    path.client.set("draft", "value")
    path.client.restore(key, 0, path.client.dump("draft"), idletime=IDLE_S)
    wait_for(lambda: deliveries(path, key), "it was delivered")
    let_the_watermark_pass(path)


def let_the_watermark_pass(path: PathUnderTest) -> None:
    """Wait until all that the server has published by now is settled."""
    seconds, micros = path.client.time()
    now_ms = seconds * 1_000 + micros // 1_000
    wait_for(lambda: path.status()["settled_until_ms"] > now_ms, "all is settled")
    wait_for(lambda: path.node()["heard_until_ms"] > now_ms and path.node()["server_mark"], "gaps may be narrowed")


def bury(path: PathUnderTest, key: str, event: str) -> None:
    letter = DeadLetter(1, "all", "gate", key, event, 1, 3, "it broke")
    assert FileSink(str(path.folder / "dead_letters.jsonl"), 1_000_000).write([letter]) == ""


def redriven(path: PathUnderTest) -> Summary:
    return redrive(load_settings(str(path.config), path.environment, {}))


def deliveries(path: PathUnderTest, key: str) -> int:
    return sum(record["id"] == key for record in path.records())


@contextlib.contextmanager
def halted(process: psutil.Process) -> Iterator[None]:
    """Halt a process, and kill it in the end: what its sockets receive meanwhile it never reads."""
    process.suspend()
    try:
        yield
    finally:
        process.kill()


def test_a_mark_that_a_killed_subscriber_never_read(path: PathUnderTest) -> None:
    """A key whose mark came no further than a subscriber's socket is found by the repair, though that is narrowed."""
    write_long_ago(path, "idle")
    bury(path, "idle", "hset")
    with halted(path.child("subscriber 1/1")):
        assert redriven(path).sent == 1
    wait_for(lambda: deliveries(path, "idle") == 2, "it is delivered again")


def test_a_mark_of_a_key_that_is_gone(path: PathUnderTest) -> None:
    """No repair finds an absent key: its letter stays, and is sent again, until a mark of it is settled."""
    let_the_watermark_pass(path)
    bury(path, "gone", "del")
    before = published(path)
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(redriven(path)))
    with halted(path.child("subscriber 1/1")):
        thread.start()
        wait_for(lambda: published(path) > before, "the mark is published")
    thread.join(WAIT_S)
    wait_for(lambda: deliveries(path, "gone"), "the delete is delivered")
    assert [(summary.sent, summary.problems) for summary in summaries] == [(1, [])]
    assert not (path.folder / "dead_letters.jsonl").exists()


def published(path: PathUnderTest) -> int:
    """Return how often somebody has published."""
    return int(path.client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


def test_a_mark_that_was_in_flight_when_the_engine_was_killed(path: PathUnderTest) -> None:
    """A key that is sent again, and fails still when the whole engine is killed, is found by the next one."""
    write_long_ago(path, "idle")
    (path.folder / "healed").unlink()
    bury(path, "idle", "hset")
    assert redriven(path).sent == 1
    wait_for(lambda: deliveries(path, "idle") >= 2, "it is retried")
    seconds, _ = path.client.time()
    wait_for(lambda: path.node()["heard_until_ms"] > (seconds + 1) * 1_000, "the mark is behind a watermark")
    checkpoints = CheckpointFile(str(path.folder / "checkpoint"))
    before = checkpoints.load()[0]
    wait_for(lambda: checkpoints.load()[0] != before, "the checkpoint that the next engine finds is newer")
    found = checkpoints.load()[0]
    assert found is not None
    assert found.server_mark
    path.stop(signal.SIGKILL)
    (path.folder / "healed").touch()
    tried = deliveries(path, "idle")
    path.start()
    wait_for(lambda: deliveries(path, "idle") > tried, "it is delivered at last")
    assert "narrowed=True" in path.log().rpartition("resumed")[2]


def test_a_letter_whose_value_the_server_has_lost_stays(path: PathUnderTest) -> None:
    """A cache that came back empty lost what the letter holds: it is no deletion, and the letter no waste."""
    path.client.hset("lost", "n", 1)
    wait_for(lambda: deliveries(path, "lost"), "it was delivered")
    path.server.kill()
    path.server.start()
    wait_for(lambda: path.totals()["reconnects"] >= 1, "the engine listens again")
    bury(path, "lost", "hset")
    path.client.hset("there", "n", 1)
    bury(path, "there", "hset")
    summary = redriven(path)
    assert (summary.sent, summary.kept) == (1, 1)
    assert any("older than the server's start: 1" in problem for tally in summary.sources for problem in tally.problems)
    assert (path.folder / "dead_letters.jsonl").read_bytes().count(b"\n") == 1
    assert not any(record["body"] is None for record in path.records())
