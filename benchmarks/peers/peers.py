"""Who does this job: how each is found, and how it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from benchmarks.peers.receiver import Receiver
from benchmarks.stand.harness import CONFIG, engine_environment, start_engine
from benchmarks.stand.processes import die_with_parent

BATCH = 500
BENTO = Path(__file__).parent / "bento.yaml"
BINARIES: Mapping[str, Sequence[str]] = {
    "bento": ("-c",),
    "redpanda-connect": ("run",),
    "rpk": ("connect", "run"),
    "benthos": ("-c",),
}
"""By the name of the binary what goes between it and the configuration file."""
NOT_INSTALLED = (
    "no binary of Bento or Redpanda Connect on PATH (bento, redpanda-connect, rpk, benthos): install one to have it in "
    "the table"
)
STOP_S = 20.0


class Place(NamedTuple):
    """Where a peer reads and delivers, and a folder of its own."""

    redis_url: str
    receiver: Receiver
    folder: Path


class Peer(Protocol):
    """Somebody who does this job."""

    @property
    def name(self) -> str:
        """Return what it is called in the table."""

    def start(self, place: Place) -> subprocess.Popen[bytes]:
        """Start it; it may take a while until it hears."""


class Ours(NamedTuple):
    """The engine, with a subscriber and an invoker."""

    name: str = "the engine"

    def start(self, place: Place) -> subprocess.Popen[bytes]:
        """Start it with the state that it left, and wait until it is ready."""
        config = place.folder / "engine.toml"
        config.write_text(
            CONFIG.format(
                capture="",
                redis_url=place.redis_url,
                folder=place.folder,
                shards=1,
                invokers=1,
                function="accept",
                keys='["*"]',
                batch_size=BATCH,
                parallelization_factor=2,
            ).replace('level = "warning"', 'level = "error"')
        )
        (place.folder / "status.json").unlink(missing_ok=True)
        return start_engine(config, place.folder, engine_environment(place.receiver.endpoint))


class Script(NamedTuple):
    """`redis-py` in a loop."""

    name: str = "redis-py script"

    def start(self, place: Place) -> subprocess.Popen[bytes]:
        """Start it."""
        return _popen([sys.executable, "-m", "benchmarks.peers.script", place.redis_url, place.receiver.url], {})


class Bento(NamedTuple):
    """Bento or Redpanda Connect, by our configuration file."""

    name: str
    command: Sequence[str]
    batch: int

    def start(self, place: Place) -> subprocess.Popen[bytes]:
        """Start it."""
        told = {"REDIS_URL": place.redis_url, "SINK_URL": place.receiver.url, "BATCH": str(self.batch)}
        return _popen([*self.command, str(BENTO)], told)


def installed() -> tuple[list[Peer], list[str]]:
    """Return who is here, the engine first, and what is to be said of who is not."""
    found: list[Peer] = [Ours(), Script()]
    for name, between in BINARIES.items():
        path = shutil.which(name)
        if path is not None:
            found += [
                Bento(f"{name}, batches", (path, *between), BATCH),
                Bento(f"{name}, one by one", (path, *between), 1),
            ]
            return found, []
    return found, [NOT_INSTALLED]


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a process and all that it has started; nothing if it has ended."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU seconds that it, and all that it has started, have used."""
    total = 0.0
    for one in tree(process):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and all that it has started, at one stroke."""
    for one in tree(process):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(STOP_S)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Have it end, or kill it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        kill(process)


def _popen(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # What it says of a fault that we make is no news.
    return subprocess.Popen(
        command,
        env={**os.environ, **variables},
        preexec_fn=die_with_parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
