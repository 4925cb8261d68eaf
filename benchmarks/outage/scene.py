"""Server, function stand-ins, the way between that can be cut, and an engine with two routes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.outage.cut import Cut
from benchmarks.stand.harness import WAIT_S_MAX, engine_environment, start_engine
from engine.config import Settings
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.valkey import ValkeyServer
from engine.settings.file import load_settings

HANDLER = "benchmarks.outage.function:note"
LOAD, LIVE = "load", "live"

CONFIG = """\
[redis]
url = "{redis_url}"
[capture]
shards = 1
[delivery]
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[aws]
region = "eu-west-1"
[log]
level = "error"
[[routes]]
name = "load"
function = "load"
keys = ["load:*"]
batch_size = 1000
[[routes]]
name = "live"
function = "live"
keys = ["live:*"]
"""


@dataclass(frozen=True)
class Scene:
    """Everything that runs. ``notes`` holds what arrived, a folder a function."""

    redis_port: int
    engine: subprocess.Popen[bytes]
    settings: Settings
    folder: Path
    cut: Path

    @property
    def backlog(self) -> Path:
        """Return the folder of the backlog."""
        return self.folder / "backlog"

    @property
    def status_file(self) -> Path:
        """Return where the engine says how it is."""
        return self.folder / "status.json"

    def notes(self, function: str) -> Path:
        """Return where a function notes what it gets."""
        return self.folder / function

    def begin_outage(self) -> None:
        """Break all connections to the function ``load``, from now on."""
        self.cut.touch()

    def end_outage(self) -> None:
        """Let them through again."""
        self.cut.unlink()

    def stop(self) -> int:
        """Drain the engine; return its exit status."""
        if self.engine.poll() is None:
            self.engine.send_signal(signal.SIGTERM)
        return self.engine.wait(WAIT_S_MAX)


@contextmanager
def scene() -> Iterator[Scene]:
    """Run all of it until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="engine-outage-"))
    marker = folder / "cut"
    functions = []
    for name in (LOAD, LIVE):
        (folder / name).mkdir()
        functions.append(FunctionSpec(name, HANDLER, concurrency_max=10, environment={"NOTES": str(folder / name)}))
    try:
        with ValkeyServer() as server, LambdaRuntime(functions) as runtime:
            cut = Cut(runtime.endpoint, LOAD, marker)
            config = folder / "engine.toml"
            config.write_text(CONFIG.format(redis_url=server.url, folder=folder))
            engine = start_engine(config, folder, engine_environment(cut.endpoint))
            one = Scene(server.port, engine, load_settings(str(config), os.environ, {}), folder, marker)
            try:
                yield one
            finally:
                try:
                    one.stop()
                except subprocess.TimeoutExpired:
                    engine.kill()
                    engine.wait()
                finally:
                    cut.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
