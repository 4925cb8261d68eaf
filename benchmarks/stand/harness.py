"""A running engine on the embedded stack, watched from outside: its CPU, its counters, its invocations."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psutil

from benchmarks.stand.errors import EngineEnded, NotReached
from benchmarks.stand.processes import die_with_parent
from benchmarks.stand.servers import redis_server
from engine.config import RedisSettings
from engine.sandbox.demo import clean_environment
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.stack import child_environment, sandbox_environment

WAIT_S_MAX = 120.0

CONFIG = """\
[redis]
url = "{redis_url}"
[capture]
shards = {shards}
{capture}
[delivery]
invokers = {invokers}
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[log]
level = "warning"
[[routes]]
name = "everything"
function = "{function}"
keys = {keys}
batch_size = {batch_size}
parallelization_factor = {parallelization_factor}
"""


class Figure(msgspec.Struct):
    """One figure of ``reports/bench.json``: the median of several runs, and how far they lay apart.

    ``runs`` are what each run showed, and ``yardsticks`` what a yardstick showed beside each (µs,
    `benchmarks.measured.parse`). ``spread`` is (highest − lowest) / median; ``goal`` says what is wanted,
    as ``<= 1.0`` or ``>= 100``. Where something could not be measured ``value`` is None, and ``note`` says why.
    """

    name: str
    value: float | None
    unit: str
    spread: float
    goal: str
    note: str = ""
    runs: list[float] = []
    yardsticks: list[float] = []

    @property
    def met(self) -> str:
        """Return yes or no, or nothing if there is no goal."""
        if not self.goal or self.value is None:
            return ""
        relation, _, bound = self.goal.partition(" ")
        met = self.value <= float(bound) if relation == "<=" else self.value >= float(bound)
        return "yes" if met else "no"

    @property
    def text(self) -> str:
        """Return the value as people read it."""
        if self.value is None:
            return "no figure"
        return f"{self.value:,.0f}" if self.value >= 1_000 else f"{self.value:,.2f}"


def figure(
    name: str, unit: str, goal: str, runs: Sequence[float], note: str = "", yardsticks: Sequence[float] = ()
) -> Figure:
    """Make the figure of these runs."""
    assert runs
    middle = statistics.median(runs)
    spread = (max(runs) - min(runs)) / middle if middle else 0.0
    return Figure(name, round(middle, 3), unit, round(spread, 3), goal, note, _rounded(runs), _rounded(yardsticks))


def no_figure(name: str, unit: str, goal: str, reason: str) -> Figure:
    """Make the figure of something that could not be measured, for this reason."""
    return Figure(name, None, unit, 0.0, goal, f"no figure: {reason}")


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def in_yardsticks(figure_: Figure) -> Figure | None:
    """Return a time as so many yardsticks, which the machine's speed moves alike; None if there were none."""
    if not figure_.yardsticks or len(figure_.yardsticks) != len(figure_.runs):
        return None
    runs = [run / by for run, by in zip(figure_.runs, figure_.yardsticks, strict=True)]
    return figure(f"{figure_.name}/yardstick", "×", "<= 0", runs)


@dataclass
class Rig:
    """Server, function and engine, all running.

    ``server_pid`` is 0 for a server that is not ours, ``runtime_pid`` where the function runs in AWS.
    """

    redis: RedisSettings
    engine: subprocess.Popen[bytes]
    folder: Path
    server_pid: int
    runtime_pid: int

    @property
    def journal(self) -> Path:
        """Return the file in which the Lambda runtime notes its invocations."""
        return self.folder / "journal.jsonl"

    def totals(self) -> dict[str, int]:
        """Return the engine's counters over all of its processes, at most a second old."""
        status: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        return {name.lower(): value for name, value in status["totals"].items()}

    def cpu_s(self) -> float:
        """Return the CPU seconds that the engine's processes have used, user and system."""
        root = psutil.Process(self.engine.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return sum(time.user + time.system for time in times)

    def restarts(self) -> int:
        """Return how often the engine has replaced a child."""
        status: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        return sum(child["restarts"] for child in status["children"])

    def check(self) -> None:
        """Raise `EngineEnded` where the engine does not run any more."""
        if self.engine.poll() is not None:
            raise EngineEnded(f"the engine ended with {self.engine.returncode} while it was measured")

    def wait(self, name: str, at_least: int) -> None:
        """Wait until a counter has come this far; raise `EngineEnded` or `NotReached`."""

        def has_come() -> bool:
            self.check()
            return self.totals().get(name, 0) >= at_least

        wait_until(has_come, f"{name} >= {at_least}")

    def stop(self) -> int:
        """Drain the engine; return its exit status."""
        if self.engine.poll() is None:
            self.engine.send_signal(signal.SIGTERM)
        return self.engine.wait(WAIT_S_MAX)


def wait_until(condition: Callable[[], bool], what: str, wait_s_max: float = WAIT_S_MAX) -> None:
    """Return when the condition holds; raise `NotReached` when it does not come to."""
    deadline = time.monotonic() + wait_s_max
    while not condition():
        if time.monotonic() > deadline:
            raise NotReached(f"not reached within {wait_s_max:.0f} s: {what}")
        time.sleep(0.02)


def stand_in(folder: Path) -> FunctionSpec:
    """Return the function that accepts whatever comes, and runs nothing."""
    return FunctionSpec("accept", "accept", concurrency_max=100)


@contextmanager
def rig(
    *,
    shards: int = 1,
    invokers: int = 1,
    batch_size: int = 1_000,
    parallelization_factor: int = 2,
    journal_payloads: bool = False,
    with_journal: bool = True,
    function: Callable[[Path], FunctionSpec] = stand_in,
    aws_function: str = "",
    more: str = "",
    capture: str = "",
) -> Iterator[Rig]:
    """Run the server, the function and the engine until the block ends.

    ``function`` is called ``accept``, and made for the folder of the run; ``aws_function`` names one that runs in AWS,
    by the credentials of the environment, instead; ``more`` and ``capture`` are more settings, of the route
    and of that section. Raise `ServerError` or `EngineEnded`.
    """
    folder = Path(tempfile.mkdtemp(prefix="engine-bench-"))
    try:
        with redis_server() as server, ExitStack() as stack:
            environment, runtime_pid = clean_environment(os.environ), 0
            if not aws_function:
                journal = folder / "journal.jsonl" if with_journal else None
                made = LambdaRuntime([function(folder)], journal=journal, journal_payloads=journal_payloads)
                runtime = stack.enter_context(made)
                environment, runtime_pid = engine_environment(runtime.endpoint), runtime.pid
            config = folder / "engine.toml"
            config.write_text(
                CONFIG.format(
                    capture=capture,
                    redis_url=server.redis.url,
                    folder=folder,
                    shards=shards,
                    invokers=invokers,
                    function=aws_function or "accept",
                    keys=msgspec.json.encode(server.keys).decode(),
                    batch_size=batch_size,
                    parallelization_factor=parallelization_factor,
                )
                + more
            )
            engine = start_engine(config, folder, environment | server.environment)
            bench = Rig(server.redis, engine, folder, server.pid, runtime_pid)
            stack.callback(bench.stop)
            yield bench
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def engine_environment(lambda_endpoint: str) -> dict[str, str]:
    """Return the variables of an engine that invokes a Lambda of the sandbox."""
    return clean_environment(child_environment(os.environ, sandbox_environment(lambda_endpoint=lambda_endpoint)))


def start_engine(config: Path, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the engine as a user does, and wait until it says that it is ready."""
    command = [sys.executable, "-m", "engine", "start", "--config", str(config)]
    engine = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
    status = folder / "status.json"

    def is_ready() -> bool:
        if engine.poll() is not None:
            raise EngineEnded(f"the engine ended with {engine.returncode} before it was ready")
        return status.exists() and orjson.loads(status.read_bytes())["state"] == "ready"

    wait_until(is_ready, "the engine is ready")
    return engine
