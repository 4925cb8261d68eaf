"""Ports of the sandbox: loopback only.

Free ports are looked for below the range from which systems take the ports of outgoing connections. There, a
client that reconnects to a stopped server may be given the server's own port, meet itself, and keep the server from
restarting.
"""

from __future__ import annotations

import errno
import random
import socket

from engine.sandbox.errors import PortInUse, SandboxError

HOST = "127.0.0.1"
FREE_PORTS = range(20_000, 32_000)
_ATTEMPTS_MAX = 200
_BACKLOG = 1_024


def listen(port: int, part: str) -> socket.socket:
    """Return a socket that listens on a loopback port, a free one for port 0; raise PortInUse if it is taken."""
    if port:
        return _bind(port, part)
    for _ in range(_ATTEMPTS_MAX):
        try:
            return _bind(random.choice(FREE_PORTS), part)
        except PortInUse:
            continue
    raise SandboxError(f"no free port for {part} in {FREE_PORTS.start}-{FREE_PORTS.stop - 1}")


def free_port(part: str) -> int:
    """Return a port that was free a moment ago, for servers that can't be handed a socket."""
    with listen(0, part) as listener:
        return int(listener.getsockname()[1])


def require_free(port: int, part: str) -> None:
    """Raise PortInUse if a server could not listen on this port now."""
    listen(port, part).close()


def _bind(port: int, part: str) -> socket.socket:
    if not 0 < port < 65_536:
        raise SandboxError(f"{port} is not a valid port for {part}", hint="1 to 65535, or 0 for a free one")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without this, connections of an earlier server that linger in TIME_WAIT count as "in use".
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} is in use, {part} can't listen on it", hint="port 0 picks a free one"
            ) from None
        raise SandboxError(f"{part} can't listen on port {port}: {error.strerror}") from None
    return listener
