"""Each alert is raised by its real fault: Prometheus scrapes running engines, and its rules are those that we ship.

A minute of the rules takes a second; thresholds are as they are. CloudWatch's alarms are held against what the
engine reports through the same faults.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from engine.observe import metrics
from engine.sandbox.demo import clean_environment
from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox, child_environment, default_functions
from engine.sandbox.valkey import ValkeyServer
from tests.alerts_rig import Fault, WatchedEngine, alarms, fault, raise_all, resolve
from tests.prometheus import Prometheus, alerts, needs_prometheus, prometheus
from tests.support import wait_for

MINUTE_S = 1
CALM_S = 5
BUSY, CUT_OFF = "busy", "cut off"
BUSY_SETTINGS = """\
[redis]
url = "{url}"
[capture]
shards = 1
dirty_keys_max = 1_000
key_bytes_max = 1_024
[ring]
ring_bytes = 65_536
frame_bytes_max = 16_384
[delivery]
retry_backoff_ms_max = 500
set_aside_attempts = 2
set_aside_backoff_ms_max = 1_000
[[routes]]
name = "failing"
function = "gate"
keys = ["failing:*"]
[[routes]]
name = "aside"
function = "picky"
keys = ["poison", "well:*"]
[[routes]]
name = "letters"
function = "refusing"
keys = ["letter:*"]
maximum_retry_attempts = 0
"""
CUT_OFF_SETTINGS = """\
[redis]
url = "{url}"
[capture]
shards = 1
[delivery]
deadline_ms = 3_000
deadline_margin_ms = 500
[[routes]]
name = "carts"
function = "dynamodb"
keys = ["cart:*"]
events = ["*", "del", "expired"]
destination = "dynamodb://{table}"
"""
ITEMS = 20
OF_BUSY = (
    *("RouteFailing", "InvocationsFailing", "Backlog", "KeysSetAside", "DeadLetters", "Gaps"),
    *("ProcessRestarts", "ProcessSilent", "Overflow", "Down"),
)
OF_CUT_OFF = ("DeletionsHeld", "NotReady", "Late", "Down")
ALARMS_OF_BUSY, ALARMS_OF_CUT_OFF = {"Gaps", "DeadLetters", "KeysBacklog"}, {"LagMs", "DeletionsHeld"}
FUNCTIONS = ("gate", "picky", "refusing")


@dataclass
class Scene:
    """Two engines that Prometheus watches, each with its server; and where the marks are that heal functions."""

    watch: Prometheus
    busy: WatchedEngine
    cut_off: WatchedEngine
    servers: dict[str, ValkeyServer]
    folder: Path

    def client(self, name: str) -> Any:
        return redis.Redis(port=self.servers[name].port)

    def write(self, prefix: str, count: int, name: str = BUSY) -> None:
        pipe = self.client(name).pipeline(transaction=False)
        for number in range(count):
            pipe.hset(f"{prefix}{number}", "n", time.monotonic_ns())
        pipe.execute()

    def heal(self, function: str) -> None:
        (self.folder / function).touch()

    def harm(self, function: str) -> None:
        (self.folder / function).unlink()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run all of it until it is calm, with no alert; then the longest fault begins, since a lag takes its time."""
    folder = tmp_path_factory.mktemp("alerts")
    texts = {BUSY: BUSY_SETTINGS, CUT_OFF: CUT_OFF_SETTINGS}
    specs = [
        FunctionSpec(one, f"tests.functions:{one}", environment={"HEALED": str(folder / one)}) for one in FUNCTIONS
    ]
    with ExitStack() as stack:
        servers = {name: stack.enter_context(ValkeyServer()) for name in texts}
        functions = [*default_functions(DEFAULT_TABLE), *specs]
        sandbox = stack.enter_context(Sandbox(redis_url=servers[BUSY].url, functions=functions))
        ours = {name: value for name, value in sandbox.environment.items() if "REDIS" not in name}
        environment = clean_environment(child_environment(os.environ, ours))
        engines = []
        for name, text in texts.items():
            settings = text.format(url=servers[name].url, table=sandbox.table)
            engines.append(WatchedEngine(name, tmp_path_factory.mktemp("engine"), environment, settings))
        for function in FUNCTIONS:
            (folder / function).touch()
        for engine in engines:
            stack.enter_context(engine.running())
        for engine in engines:
            engine.wait_until_ready()
        watch = stack.enter_context(prometheus(folder, {one.name: one.console for one in engines}, MINUTE_S))
        found = Scene(watch, *engines, servers, folder)
        be_calm(found)
        cut(found)
        yield found


def be_calm(scene: Scene) -> None:
    """Deliver something, and prove that neither alerts nor alarms are raised by that."""
    for prefix, name in (("failing:", BUSY), ("well:", BUSY), ("letter:", BUSY), ("cart:", CUT_OFF)):
        scene.write(prefix, ITEMS, name)
    for engine in (scene.busy, scene.cut_off):
        wait_for(lambda engine=engine: engine.status()["totals"]["records_delivered"] >= ITEMS, "items are delivered")
        query = f'count_over_time(ingest_engine_settled_age_seconds{{instance="{engine.name}"}}[1h])'
        wait_for(lambda query=query: (scene.watch.value(query) or 0) >= CALM_S, "some scrapes")
        wait_for(lambda engine=engine: len(engine.reports()) >= CALM_S, "some reports")
        wait_for(lambda engine=engine: engine.has_reported(*metrics.LAGS), "percentiles of lags are reported")
        wait_for(lambda engine=engine: not scene.watch.firing(engine.name), "no alert fires")
        assert not raised(engine)


def cut(scene: Scene) -> None:
    """Have the cache come back empty, and then hang."""
    server = scene.servers[CUT_OFF]
    server.kill()
    server.start()
    wait_for(lambda: scene.cut_off.status().get("deletions_held") == ITEMS, "deletions are held")
    os.kill(server.pid, signal.SIGSTOP)


def test_each_alert_and_alarm_has_its_fault_here() -> None:
    """One that is added wants a fault that raises it."""
    assert {f"IngestEngine{one}" for one in (*OF_BUSY, *OF_CUT_OFF)} == {alert["alert"] for alert in alerts()}
    assert set(alarms()) == ALARMS_OF_BUSY | ALARMS_OF_CUT_OFF


def of_functions(scene: Scene) -> tuple[Fault, ...]:
    """Functions that fail: all the time, for one key, and for good; and connections that break, over and over."""
    client, numbers = scene.client(BUSY), count()

    def strike() -> None:
        scene.harm("gate")
        scene.write("failing:", 4_000)

    def poison() -> None:
        scene.harm("picky")
        client.hset("poison", "n", 1)

    return (
        fault("RouteFailing", "InvocationsFailing", "Backlog", strike=strike, mend=lambda: scene.heal("gate")),
        fault(
            "KeysSetAside",
            strike=poison,
            again=lambda: client.hset(f"well:{next(numbers)}", "n", 1),
            mend=lambda: scene.heal("picky"),
        ),
        fault(
            "DeadLetters",
            strike=lambda: scene.harm("refusing"),
            again=lambda: client.hset(f"letter:{next(numbers)}", "n", 1),
            mend=lambda: scene.heal("refusing"),
        ),
        fault("Gaps", strike=nothing, again=lambda: client.client_kill_filter(_type="pubsub"), mend=nothing),
    )


def of_processes(scene: Scene) -> tuple[Fault, ...]:
    """A subscriber that is killed, over and over; an invoker that hangs while many keys change."""
    engine = scene.busy

    def kill() -> None:
        with suppress(psutil.Error):  # the status is of a moment ago
            engine.child("subscriber 1/1").kill()

    def hang() -> None:
        engine.child("invoker 1/1").suspend()

    return (
        fault("ProcessRestarts", strike=nothing, again=kill, mend=nothing),
        fault(
            *("ProcessSilent", "Overflow"),
            strike=hang,
            again=lambda: scene.write("well:", 20_000),
            mend=lambda: engine.child("invoker 1/1").resume(),
        ),
    )


def raised(engine: WatchedEngine) -> set[str]:
    """Return the alarms, by metric, that its reports so far have raised."""
    return {name for name, alarm in alarms().items() if alarm.is_raised_by(engine.reports())}


def nothing() -> None:
    """Strike, or mend, by doing nothing: it is done over and over, or ends by itself."""


@needs_prometheus
def test_functions_processes_and_connections_that_fail(scene: Scene) -> None:
    """Each fault raises its alerts, and they are over when it is; the alarms on what it counts are raised as well."""
    watch, engine = scene.watch, scene.busy
    functions, processes = of_functions(scene), of_processes(scene)
    raise_all(watch, BUSY, *functions)
    raise_all(watch, BUSY, *processes)
    wait_for(lambda: raised(engine) >= ALARMS_OF_BUSY, "the alarms are raised")
    resolve(watch, BUSY, *functions, *processes)
    supervisor = engine.process
    assert supervisor is not None
    stopped = fault(
        "Down",
        strike=lambda: supervisor.send_signal(signal.SIGSTOP),
        mend=lambda: supervisor.send_signal(signal.SIGCONT),
    )
    raise_all(watch, BUSY, stopped)
    resolve(watch, BUSY, stopped)


@needs_prometheus
def test_a_cache_that_comes_back_empty_and_hangs(scene: Scene) -> None:
    """Held deletions are an alert until somebody decides, a cache that hangs is until it answers, and an engine that
    was killed is until it runs again.
    """
    watch, engine, server = scene.watch, scene.cut_off, scene.servers[CUT_OFF]
    held = fault("DeletionsHeld", strike=nothing, mend=lambda: engine.run("deletions", "refuse", "carts"))
    hangs = fault("NotReady", "Late", strike=nothing, mend=lambda: os.kill(server.pid, signal.SIGCONT))
    raise_all(watch, CUT_OFF, held, hangs)
    wait_for(lambda: raised(engine) >= ALARMS_OF_CUT_OFF, "the alarms are raised")
    resolve(watch, CUT_OFF, held, hangs)
    killed = fault("Down", strike=engine.kill, mend=engine.start)
    told = len(engine.reports())
    raise_all(watch, CUT_OFF, killed)
    # What reports to CloudWatch goes on, and has no lag to report: that is an alarm as well.
    wait_for(lambda: alarms()["LagMs"].is_raised_by(engine.reports()[told - 1 :]), "the alarm on lag is raised")
    resolve(watch, CUT_OFF, killed)
