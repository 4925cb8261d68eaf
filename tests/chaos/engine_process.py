"""An engine as its users run it: a process of its own, told by its file and by signals."""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 60.0
DRAIN_S_MAX = 20.0
_LOOK_S = 0.03
_PR_SET_PDEATHSIG = 1


class EngineProcess:
    """``engine start`` in a state folder of its own.

    ``settings`` and ``routes`` are what `write_config` writes; ``environment`` and ``limits`` are those of the next
    start. ``pid`` is the supervisor's.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Mapping[str, Any]],
        routes: Sequence[Mapping[str, Any]],
        environment: Mapping[str, str],
        *,
        limits: Mapping[int, int] | None = None,
        shifted_clock: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings = {section: dict(keys) for section, keys in settings.items()}
        self.routes = [dict(route) for route in routes]
        self.environment = dict(environment)
        self.limits = dict(limits or {})
        self._clock = _Clock(folder / "clock") if shifted_clock else None
        self._process: subprocess.Popen[bytes] | None = None

    # The file

    @property
    def config(self) -> Path:
        """Return where its settings are."""
        return self.folder / "engine.toml"

    @property
    def checkpoint(self) -> Path:
        """Return where its checkpoint is."""
        return self.folder / "checkpoint"

    @property
    def backlog(self) -> Path:
        """Return the folder of its backlog."""
        return self.folder / "backlog"

    def write_config(self, text: str = "") -> None:
        """Write the settings file anew from ``settings`` and ``routes``, or with this very text."""
        self.config.write_text(text or toml(self.settings, self.routes))

    def change_settings(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge these into ``settings`` and write the file; takes effect at the next start."""
        for section, keys in changes.items():
            self.settings.setdefault(section, {}).update(keys)
        self.write_config()

    # Its life

    def launch(self) -> None:
        """Start it without waiting."""
        assert not self.is_running()
        (self.folder / "status.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "engine"]
        if self._clock is not None:
            command = [sys.executable, "-m", "tests.chaos.shifted_engine", str(self._clock.path)]
        with (self.folder / "engine.log").open("ab") as file:
            # Through a pipe where the engine's own files are limited: what it says must not be lost with them.
            pump = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) if self.limits else None
            log = file if pump is None else pump.stdin
            self._process = subprocess.Popen(
                [*command, "start", "--config", str(self.config)],
                env=self.environment | {"PYTHONPATH": str(ROOT)},  # the engine of this very tree
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_before_exec(self.limits),
            )
            if pump is not None and pump.stdin is not None:
                pump.stdin.close()  # it ends with the last process of the engine

    def wait_ready(self, wait_s: float = READY_S_MAX) -> None:
        """Wait until it is ready; raise RuntimeError, with the end of its log, where it does not become so."""
        deadline = time.monotonic() + wait_s
        while self.status().get("state") != "ready":
            if not self.is_running() or time.monotonic() > deadline:
                words = " · ".join(self.log().strip().splitlines()[-4:])
                raise RuntimeError(f"the engine did not become ready: {words}")
            time.sleep(_LOOK_S)

    def start(self, wait_s: float = READY_S_MAX) -> None:
        """Start it and wait until it is ready; raise RuntimeError where it does not become so."""
        self.launch()
        self.wait_ready(wait_s)

    def stop(self, wait_s: float = DRAIN_S_MAX) -> int:
        """Drain it (SIGTERM); return its exit status. Killed, and -9 returned, where it takes longer."""
        if self._process is None:
            return 0
        if self.is_running():
            for pid in (self.pid, *self.children().values()):
                _signal(pid, signal.SIGCONT)
            _signal(self.pid, signal.SIGTERM)
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return -signal.SIGKILL

    def kill(self) -> None:
        """SIGKILL the supervisor, and return when it and all that it had started are gone."""
        self._end(lambda children: _signal(self.pid, signal.SIGKILL))

    def kill_all(self) -> None:
        """SIGKILL the supervisor and all its children at once."""

        def kill(children: Sequence[psutil.Process]) -> None:
            for pid in (self.pid, *(child.pid for child in children)):
                _signal(pid, signal.SIGKILL)

        self._end(kill)

    def _end(self, act: Callable[[Sequence[psutil.Process]], None]) -> None:
        if self._process is None or not self.is_running():
            return
        children = psutil.Process(self.pid).children(recursive=True)
        act(children)
        self._process.wait()
        _, alive = psutil.wait_procs(children, timeout=5.0)
        for one in alive:
            one.kill()

    def command(self, *arguments: str, well: tuple[int, ...] = (0,)) -> None:
        """Run another command of the engine with these settings; raise RuntimeError where it ends otherwise."""
        command = [sys.executable, "-m", "engine", *arguments, "--config", str(self.config)]
        environment = self.environment | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=READY_S_MAX)
        if done.returncode not in well:
            raise RuntimeError(f"engine {' '.join(arguments)}: {done.stderr.strip()}")

    def reload(self) -> None:
        """SIGHUP: read the routes again."""
        _signal(self.pid, signal.SIGHUP)

    def shift_clock(self, seconds: float) -> None:
        """Set how far its wall clock is off, at once (``shifted_clock=True``)."""
        assert self._clock is not None, "the fault needs shifted_clock=True"
        self._clock.set(int(seconds * 1e9))

    # What it shows

    @property
    def pid(self) -> int:
        """Return the supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether the supervisor is there."""
        return self._process is not None and self._process.poll() is None

    def children(self) -> dict[str, int]:
        """Return the children's names ("subscriber 1/2", "invoker 2/2") and process ids."""
        found: dict[str, int] = {}
        if self.is_running():
            for process in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.Error):  # one that has just ended has no command line any more
                    title = " ".join(process.cmdline()).strip()
                    if title.startswith("engine: "):
                        found[title.removeprefix("engine: ")] = process.pid
        return found

    def status(self) -> dict[str, Any]:
        """Return the status file, {} where there is none; up to a second old."""
        try:
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return status

    def totals(self) -> dict[str, int]:
        """Return the counters over all children by their small names; 0 for what is not there. Up to a second old."""
        return defaultdict(int, self.status().get("totals", {}))

    def log(self) -> str:
        """Return all that it has logged since the first start of this run."""
        try:
            return (self.folder / "engine.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""


class _Clock:
    """A shared file of one 64-bit number: by how many nanoseconds the wall clock is off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")

    def set(self, nanoseconds: int) -> None:
        """Set it, for all processes that look."""
        self._words[0] = nanoseconds


def toml(settings: Mapping[str, Mapping[str, Any]], routes: Sequence[Mapping[str, Any]]) -> str:
    """Return a settings file; JSON's strings, numbers, lists and truth values are TOML's too."""
    lines: list[str] = []
    for section, keys in settings.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    for route in routes:
        lines += ["[[routes]]", *(f"{key} = {json.dumps(value)}" for key, value in route.items())]
    return "\n".join(lines) + "\n"


def _before_exec(limits: Mapping[int, int]) -> Callable[[], None]:
    """Return what the new process does first: it ends with the suite, however that ends, and keeps to the limits."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for which, value in limits.items():
            resource.setrlimit(which, (value, value))

    return prepare


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
