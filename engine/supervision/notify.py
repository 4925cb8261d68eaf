"""What the service manager is told, if one started the engine and asks for it (systemd's ``Type=notify``).

One datagram per message, to the socket that ``NOTIFY_SOCKET`` names; ``WATCHDOG_USEC`` says how long the manager waits
for a sign of life. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

BEATS_A_LIMIT = 3
"""Signs of life in the time that the manager waits for one."""


class ServiceManager:
    """The connection to the manager; sends nothing if nobody listens. A message that cannot be sent is not missed."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Remove the manager's variables from the environment: no child may speak for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        limit_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        # A name that begins with @ is in Linux's abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_ours = not pid or pid == str(os.getpid())
        self._beat_ms = int(limit_us) // 1_000 // BEATS_A_LIMIT if limit_us.isdigit() and is_ours else 0
        self._beat_due_ms = 0

    def ready(self, status: str) -> None:
        """Say that the engine works; ``status`` is a line for people."""
        self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the engine is stopping."""
        self._say("STOPPING=1\nSTATUS=draining")

    def beat(self, moment_ms: int) -> None:
        """Send a sign of life, if that is wanted and due (monotonic)."""
        if self._beat_ms and moment_ms >= self._beat_due_ms:
            self._beat_due_ms = moment_ms + self._beat_ms
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
