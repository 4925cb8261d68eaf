"""A node of a cluster, and what it knows of the others."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from engine.sandbox import ports
from engine.sandbox.valkey import ValkeyServer

WAIT_S = 60.0
ADMIN, SECRET = "admin", "admin-secret"
"""Who administers a cluster that has users; the default user is off there."""
_LOOK_S = 0.02


def wait_until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Poll until the condition holds, and return it; a server that refuses or does not answer counts as no."""
    deadline = time.monotonic() + wait_s
    while True:
        said = ""
        try:
            if result := condition():
                return result
        except (redis.RedisError, OSError) as error:
            said = f" ({error})"
        assert time.monotonic() < deadline, f"did not come about within {wait_s:g} s: {what}{said}"
        time.sleep(_LOOK_S)


class Node:
    """A server; ``id`` is what the cluster calls it, ``address`` where clients are told to reach it."""

    def __init__(
        self,
        server: ValkeyServer,
        options: Mapping[str, Any],
        *,
        bus_port: int = 0,
        announced: tuple[int, int] = (0, 0),
    ) -> None:
        self.server = server
        self.bus_port = bus_port
        self.announced_port, self.announced_bus_port = announced[0] or server.port, announced[1] or bus_port
        self.is_stopped = False
        self._client = redis.Redis(ports.HOST, server.port, protocol=2, socket_timeout=10, **options)
        self.id: str = self.call("CLUSTER", "MYID").decode() if bus_port else ""

    @property
    def port(self) -> int:
        """Return the port of the server itself."""
        return self.server.port

    @property
    def address(self) -> str:
        """Return where clients are told to reach it."""
        return f"{ports.HOST}:{self.announced_port}"

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.server.pid

    @property
    def is_alive(self) -> bool:
        """Tell whether it runs, and is not halted."""
        return self.server.is_running() and not self.is_stopped

    @property
    def client(self) -> Any:
        """Return a client of this node alone (bytes in, bytes out); it follows no redirection."""
        return self._client

    def call(self, *words: bytes | str | int) -> Any:
        """Run a command on this node; return its reply as RESP2 has it."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            pool.release(connection)

    def info(self) -> dict[str, str]:
        """Return ``CLUSTER INFO``."""
        lines = self.call("CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def known(self) -> dict[str, Known]:
        """Return what this node knows of all of them (``CLUSTER NODES``), by their ids."""
        lines = self.call("CLUSTER", "NODES").decode().splitlines()
        return {known.id: known for known in map(Known, filter(None, lines))}

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.is_stopped = False
        self.server.kill()

    def stop(self) -> None:
        """Halt it (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)
        self.is_stopped = True

    def cont(self) -> None:
        """Have it go on."""
        if self.is_stopped:
            self.is_stopped = False
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, with its folder."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._client.close()
        self.kill()
        self.server.close()


class Known:
    """A line of ``CLUSTER NODES``."""

    def __init__(self, line: str) -> None:
        words = line.split()
        self.id, self.flags = words[0], set(words[2].split(","))
        self.primary_id = "" if words[3] == "-" else words[3]
        self.epoch, self.is_linked = int(words[6]), words[7] == "connected"
        ranges = [word.split("-") for word in words[8:] if not word.startswith("[")]
        self.slots = tuple((int(first[0]), int(first[-1])) for first in ranges)

    @property
    def is_primary(self) -> bool:
        """Tell whether it says that it is a primary, and nobody has found it dead."""
        return "master" in self.flags and not {"fail", "noaddr", "handshake"} & self.flags
