"""Engines that monitors watch: each with its console for Prometheus, and with its reports to CloudWatch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil

from engine.sandbox.demo import wait_until_ready
from engine.sandbox.ports import free_port
from tests.deployment.documents import resources_of, template
from tests.prometheus import Prometheus
from tests.support import WAIT_S, wait_for

FAULT_S = 150.0
"""How long a fault may take to be an alert: a minute of the rules is seconds here, but a minute of lag is one."""
STATE = """\
[supervision]
state_folder = "{folder}"
heartbeat_timeout_s = 60.0
restart_backoff_ms_max = 200
[console]
listen = "{console}"
"""


class WatchedEngine:
    """An engine, its commands, and what it has reported to CloudWatch, a reading a second."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], settings: str) -> None:
        self.name, self.folder, self._environment = name, folder, dict(environment)
        self.console = f"127.0.0.1:{free_port('the console')}"
        self.config = folder / "engine.toml"
        self.config.write_text(settings + STATE.format(folder=folder, console=self.console))
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "engine", *arguments, "--config", str(self.config)]

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._launch()
        self.wait_until_ready()

    def _launch(self) -> None:
        with (self.folder / "engine.log").open("a") as log:
            self.process = subprocess.Popen(self._command("start"), env=self._environment, stderr=log)

    def wait_until_ready(self) -> None:
        assert self.process is not None
        wait_until_ready(self.process, self.folder / "status.json")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the engine, ready or not, and what reports of it."""
        reporter = None
        try:
            self._launch()
            with (self.folder / "reports").open("wb") as reports:
                reporter = subprocess.Popen(
                    self._command("metrics", "--every-s", "1"), env=self._environment, stdout=reports
                )
            yield
        finally:
            for process in (reporter, self.process):
                if process is not None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    process.wait()

    def kill(self) -> None:
        """Kill it, and with it all of its processes."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def run(self, *arguments: str) -> None:
        done = subprocess.run(self._command(*arguments), env=self._environment, timeout=WAIT_S, capture_output=True)
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        return status

    def child(self, name: str) -> psutil.Process:
        """Return a child of the engine's by its name, as in ``invoker 1/1``, once it runs."""
        children = lambda: [one for one in self.status()["children"] if one["name"] == name and one["pid"]]  # noqa: E731
        pid: int = wait_for(children, f"{name} runs")[0]["pid"]
        return psutil.Process(pid)

    def reports(self) -> list[dict[str, Any]]:
        """Return the readings so far."""
        return [json.loads(line) for line in (self.folder / "reports").read_text().splitlines(keepends=True)[:-1]]

    def has_reported(self, *metrics: str) -> bool:
        """Tell whether there was a reading of each of these so far."""
        return set(metrics) <= {name for one in self.reports() for name in one}


class Alarm(NamedTuple):
    """An alarm of CloudWatch's on a metric of the engine's; ``is_silence_bad``: a period without a value counts."""

    metric: str
    threshold: float
    periods: int
    is_silence_bad: bool

    def is_raised_by(self, reports: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether some successive readings, a period each, are all past the threshold, from the first value on."""
        values = [one.get(self.metric) for one in reports]
        while values and values[0] is None:
            del values[0]
        past = [self.is_silence_bad if value is None else value > self.threshold for value in values]
        return any(all(past[at : at + self.periods]) for at in range(len(past) - self.periods + 1))


@cache
def alarms() -> dict[str, Alarm]:
    """Return the template's alarms on the engine's own metrics, by metric."""
    defaults = {name: one.get("Default") for name, one in template()["Parameters"].items()}
    found = {}
    for one in resources_of("AWS::CloudWatch::Alarm").values():
        if one["Namespace"] == "IngestEngine":
            assert one["ComparisonOperator"] == "GreaterThanThreshold"
            threshold = one["Threshold"]
            limit = float(defaults[threshold["Ref"]] if isinstance(threshold, dict) else threshold)
            is_silence_bad = one["TreatMissingData"] == "breaching"
            found[one["MetricName"]] = Alarm(one["MetricName"], limit, one["EvaluationPeriods"], is_silence_bad)
    return found


@dataclass
class Fault:
    """What raises some alerts: struck once, and ``again`` as long as one of them does not fire."""

    alerts: frozenset[str]
    strike: Callable[[], object]
    mend: Callable[[], object]
    again: Callable[[], object] = lambda: None


def fault(*alerts: str, strike: Callable[[], object], mend: Callable[[], object], **more: Any) -> Fault:
    return Fault(frozenset(f"IngestEngine{alert}" for alert in alerts), strike, mend, **more)


def raise_all(watch: Prometheus, engine: str, *faults: Fault) -> None:
    """Strike, and wait until each alert of these faults fired for this engine; all may strike at once."""
    seen: set[str] = set()
    for one in faults:
        one.strike()

    def strike_on() -> set[str]:
        seen.update(watch.firing(engine))
        left = [one for one in faults if one.alerts - seen]
        for one in left:
            one.again()
        return {alert for one in left for alert in one.alerts - seen}

    deadline = time.monotonic() + FAULT_S
    while left := strike_on():
        assert time.monotonic() < deadline, f"these do not fire: {sorted(left)}"
        time.sleep(0.3)


def resolve(watch: Prometheus, engine: str, *faults: Fault) -> None:
    """Mend these faults, and wait until none of their alerts fires."""
    for one in faults:
        one.mend()
    alerts = frozenset[str]().union(*(one.alerts for one in faults))
    deadline = time.monotonic() + FAULT_S
    while left := alerts & watch.firing(engine):
        assert time.monotonic() < deadline, f"these go on: {sorted(left)}"
        time.sleep(0.3)
