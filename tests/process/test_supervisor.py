"""The supervisor on real processes, with stub children: start, watch, replace, drain, reload, die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.supervision.signals import SAME_MS

STUB = Path(__file__).parent / "stub_engine.py"
ROOT = Path(__file__).parents[2]
WAIT_S = 30.0
CALM = {"ready_timeout_s": 20.0, "heartbeat_timeout_s": 20.0, "drain_timeout_s": 20.0}


class Engine:
    """One supervisor in a process of its own, and what can be seen of it from outside."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        if not (folder / "routes").exists():
            (folder / "routes").write_text('["carts"]')
        limits = {**CALM, **options.pop("limits", {})}
        chosen = {"folder": str(folder), "shards": 2, "invokers": 1, "limits": limits, **options}
        self.errors = folder / "errors"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(STUB), json.dumps(chosen)],
                cwd=ROOT,
                stderr=errors,
            )
        self.seen: set[int] = set()

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        self.seen |= {child["pid"] for child in status["children"] if child["pid"]}
        return status

    def child(self, name: str) -> dict[str, Any]:
        return next((child for child in self.status().get("children", ()) if child["name"] == name), {})

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not reached: {what}\n{self.errors.read_text()}"
            time.sleep(0.02)

    def until_ready(self) -> Engine:
        self.until(lambda: self.status().get("state") == "ready", "ready")
        return self

    def until_replaced(self, name: str, pid: int) -> dict[str, Any]:
        self.until(
            lambda: self.child(name).get("pid") not in {0, pid, None} and self.child(name)["state"] == "ready",
            f"{name} is replaced",
        )
        return self.child(name)

    def journal(self) -> list[str]:
        path = self.folder / "journal"
        return path.read_text().splitlines() if path.exists() else []

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def descendants(self) -> list[psutil.Process]:
        return [p for p in (process_of(pid) for pid in self.seen) if p is not None]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        for process in self.descendants():
            process.kill()


def process_of(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def begin(**options: Any) -> Engine:
        engines.append(Engine(tmp_path, **options))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


Start = Callable[..., Engine]


def test_start_and_drain(start: Start) -> None:
    """A started engine is ready, names its processes, and drains on SIGTERM with exit status 0."""
    engine = start(shards=2, invokers=2).until_ready()
    titles = {" ".join(process.cmdline()).strip() for process in engine.descendants()}
    assert titles == {
        "engine: subscriber 1/2", "engine: subscriber 2/2", "engine: invoker 1/2", "engine: invoker 2/2",
    }  # fmt: skip
    assert " ".join(psutil.Process(engine.process.pid).cmdline()).strip() == "engine: supervisor"
    assert psutil.Process(engine.process.pid).num_threads() == 1
    status = engine.status()
    assert status["pid"] == engine.process.pid
    assert [route["name"] for route in status["routes"]] == ["carts"]
    assert engine.end() == 0
    assert not engine.descendants()
    assert not list(engine.folder.glob("status.json*"))
    text = engine.errors.read_text()
    assert "ready" in text and "drained" in text and "Traceback" not in text


def test_children_keep_nothing_open_of_each_other(start: Start) -> None:
    """A child holds one end of its own channel and no other socket: else a lifeline would not break."""
    engine = start(shards=3, invokers=1).until_ready()
    engine.until_replaced("subscriber 2/3", kill_child(engine, "subscriber 2/3", signal.SIGKILL))
    for process in engine.descendants():
        links = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert sum(link.startswith("socket:") for link in links) == 1
        assert not [link for link in links if "status.json" in link]


def test_a_drain_empties_the_rings_and_subscribers_go_first(start: Start) -> None:
    """On SIGTERM subscribers drain before invokers do, and every frame in the rings is settled."""
    engine = start(shards=2, invokers=2, frames=20, invoker_waits=True).until_ready()
    (engine.folder / "go").touch()
    assert engine.end() == 0
    lines = engine.journal()
    order = [line for line in lines if line.endswith("drains")]
    assert [line.split()[0] for line in order] == ["subscriber", "subscriber", "invoker", "invoker"]
    settled = {line for line in lines if line.startswith("settled")}
    assert settled == {f"settled {s}>{i}:{n}" for s in range(2) for i in range(2) for n in range(20)}


def test_an_invoker_killed_during_the_drain_is_replaced(start: Start) -> None:
    """What was in the rings of an invoker that is killed while it drains is delivered by its successor."""
    engine = start(shards=1, frames=5, invoker_waits=True).until_ready()
    engine.process.send_signal(signal.SIGTERM)
    engine.until(lambda: "invoker 0 drains" in engine.journal(), "the invoker drains")
    kill_child(engine, "invoker 1/1", signal.SIGKILL)
    (engine.folder / "go").touch()
    assert engine.process.wait(WAIT_S) == 0
    assert {f"settled 0>0:{n}" for n in range(5)} <= set(engine.journal())


def test_a_drain_that_takes_too_long_says_what_is_left(start: Start) -> None:
    """A drain past its limit ends with exit status 1, a line on what was left, and no process."""
    engine = start(shards=1, frames=5, invoker_waits=True, limits={"drain_timeout_s": 0.5}).until_ready()
    assert engine.end() == 1
    assert not engine.descendants()
    assert "drain_incomplete" in engine.errors.read_text()
    assert "invoker 1/1 had not delivered all of its keys" in engine.errors.read_text()


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(start: Start, number: int, expected: int) -> None:
    """A second SIGTERM or SIGINT does not wait for the drain, and leaves nothing running."""
    engine = start(shards=1, frames=5, invoker_waits=True).until_ready()
    engine.process.send_signal(signal.SIGTERM)
    engine.until(lambda: engine.status().get("state") == "draining", "draining")
    time.sleep(2 * SAME_MS / 1_000)
    assert engine.end(number) == expected
    assert not engine.descendants()


def kill_child(engine: Engine, name: str, number: int) -> int:
    pid = int(engine.child(name)["pid"])
    os.kill(pid, number)
    return pid


@pytest.mark.parametrize("name", ["subscriber 2/2", "invoker 1/1"])
def test_a_killed_child_is_replaced(start: Start, name: str) -> None:
    """A child that is killed is replaced, counted, and its subscriber's gap is passed on."""
    engine = start().until_ready()
    child = engine.until_replaced(name, kill_child(engine, name, signal.SIGKILL))
    assert child["restarts"] == 1
    engine.until(lambda: engine.status()["totals"]["gaps"] == int("subscriber" in name), "the gap is counted")
    assert engine.end() == 0


def test_a_silent_child_is_replaced(start: Start) -> None:
    """A stopped child, which neither ends nor beats, is killed and replaced."""
    engine = start(limits={"heartbeat_timeout_s": 1.0, "ready_timeout_s": 20.0}).until_ready()
    stopped = kill_child(engine, "invoker 1/1", signal.SIGSTOP)
    assert engine.until_replaced("invoker 1/1", stopped)["restarts"] == 1
    assert process_of(stopped) is None
    assert "no heartbeat" in engine.errors.read_text()


def test_a_killed_supervisor_leaves_no_orphans(start: Start) -> None:
    """When the supervisor is killed, all children end, a stopped one too (on Linux)."""
    engine = start(shards=2, invokers=2).until_ready()
    if sys.platform == "linux":
        kill_child(engine, "subscriber 1/2", signal.SIGSTOP)
    engine.process.kill()
    engine.process.wait(WAIT_S)
    engine.until(lambda: not engine.descendants(), "no orphans")


def test_a_start_after_a_kill_takes_over_the_status_file(start: Start) -> None:
    """What a killed engine left behind does not keep the next one from starting."""
    first = start().until_ready()
    first.process.kill()
    first.process.wait(WAIT_S)
    first.until(lambda: not first.descendants(), "no orphans")
    second = start()
    second.until(lambda: second.status().get("pid") == second.process.pid, "the second one's status")
    assert second.until_ready().end() == 0


def test_two_engines_with_one_status_file(start: Start) -> None:
    """A second engine with the same status file is refused, and does the first no harm."""
    first = start().until_ready()
    second = start()
    assert second.process.wait(WAIT_S) == 1
    assert "another engine runs with the status file" in second.errors.read_text()
    assert first.status()["pid"] == first.process.pid
    assert first.end() == 0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("fails", "engine: error: invoker 1/1: the stub cannot start (ask the test)"),
        ("crashes", "engine: error: invoker 1/1 ended before it was ready: exit status 70"),
        ("hangs", "engine: error: not ready within 1 s: invoker 1/1"),
    ],
)
def test_a_child_that_does_not_come_up_fails_the_start(start: Start, how: str, expected: str) -> None:
    """A child that never becomes ready ends the start with 1 and one clear line, nothing left running."""
    limits = {"ready_timeout_s": 1.0} if how == "hangs" else {}
    engine = start(misbehave={"invoker 0": how}, limits=limits)
    engine.until(lambda: engine.status() is not None and engine.process.poll() is not None, "the end")
    assert engine.process.returncode == 1
    text = engine.errors.read_text()
    assert expected in text and "Traceback" not in text
    assert not engine.descendants()
    assert not list(engine.folder.glob("status.json*"))


@pytest.mark.parametrize(
    ("planner", "expected"),
    [
        ("refuses", "engine: error: start: nobody answers at 127.0.0.1:1 (is the server running?)"),
        ("hangs", "engine: error: planner: Redis or AWS did not answer in time"),
        ("crashes", "engine: error: planner: ended unexpectedly"),
    ],
)
def test_what_the_planner_says_is_shown(start: Start, planner: str, expected: str) -> None:
    """A planner that refuses, hangs or crashes ends the start with 1 and one clear line."""
    engine = start(planner=planner, limits={"ready_timeout_s": 1.0})
    assert engine.process.wait(WAIT_S) == 1
    text = engine.errors.read_text()
    assert expected in text and "Traceback" not in text


def test_a_signal_while_planning(start: Start) -> None:
    """SIGTERM while the planner works ends the start, and the planner with it."""
    engine = start(planner="hangs")
    supervisor = psutil.Process(engine.process.pid)
    engine.until(lambda: supervisor.children(), "the planner runs")
    planners = supervisor.children()
    assert engine.end() == 143
    assert not [planner for planner in planners if process_of(planner.pid)]


def test_new_routes_reach_invokers_first(start: Start) -> None:
    """SIGHUP reads the routes again: invokers learn them before subscribers do, replacements too."""
    engine = start(shards=2, invokers=2).until_ready()
    (engine.folder / "routes").write_text('["carts", "people"]')
    engine.process.send_signal(signal.SIGHUP)
    engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the routes are in force")
    learned = [line for line in engine.journal() if " routes " in line]
    assert [line.split()[0] for line in learned] == ["invoker", "invoker", "subscriber", "subscriber"]
    assert all(line.endswith("carts,people") for line in learned)
    engine.until(lambda: engine.status()["routes_version"] == 2, "the status file says so")
    assert engine.end() == 0


def test_a_settings_file_that_changes_is_read_again(start: Start) -> None:
    """With ``reload_on_change`` new routes come into force without a signal."""
    engine = start(limits={"reload_on_change": True}).until_ready()
    (engine.folder / "routes").write_text('["carts", "people"]')
    engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the routes are in force")
    assert "settings_changed" in engine.errors.read_text()
    assert engine.end() == 0


def test_bad_new_routes_change_nothing(start: Start) -> None:
    """Routes that can't be used are logged and refused; the engine goes on with the old ones."""
    engine = start().until_ready()
    (engine.folder / "routes").write_text("{}")
    engine.process.send_signal(signal.SIGHUP)
    engine.until(lambda: "reload_refused" in engine.errors.read_text(), "the refusal")
    assert "the routes are no list" in engine.errors.read_text()
    (engine.folder / "routes").write_text('["carts", "people"]')
    engine.process.send_signal(signal.SIGHUP)
    engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the next reload")
    assert engine.end() == 0


def test_a_changed_mapping_reloads_routes(start: Start) -> None:
    """A subscriber's word that a mapping hash changed does what SIGHUP does."""
    engine = start(mapping_file=True).until_ready()
    (engine.folder / "routes").write_text('["people"]')
    (engine.folder / "mapping").touch()
    engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the routes are in force")
    assert engine.end() == 0


def test_a_stopped_invoker_does_not_hold_up_new_routes(start: Start) -> None:
    """An invoker that does not answer is replaced, and the new routes come into force."""
    engine = start(invokers=2, limits={"heartbeat_timeout_s": 1.0}).until_ready()
    stopped = kill_child(engine, "invoker 2/2", signal.SIGSTOP)
    (engine.folder / "routes").write_text('["carts", "people"]')
    engine.process.send_signal(signal.SIGHUP)
    engine.until(lambda: "routes_in_force" in engine.errors.read_text(), "the routes are in force")
    assert engine.until_replaced("invoker 2/2", stopped)["restarts"] == 1
    assert engine.end() == 0
