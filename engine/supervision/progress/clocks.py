"""How this host's clocks related to the server's, for a successor: after a restart, or on another host."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from engine.clock import monotonic_ms, now_ms

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clocks(msgspec.Struct, frozen=True):
    """How far the server's clock was ahead of this host's monotonic clock, since which start of the host, and of its
    time of day; all 0 if that is unknown."""

    boot: str = ""
    monotonic_ms: int = 0
    wall_ms: int = 0

    @classmethod
    def of(cls, server_ahead_ms: int) -> Clocks:
        """Return what to keep, now; ``server_ahead_ms`` of the monotonic clock, 0 if that is unknown."""
        if not server_ahead_ms:
            return cls()
        return cls(boot_id(), server_ahead_ms, server_ahead_ms + monotonic_ms() - now_ms())

    def server_ahead_ms(self) -> int:
        """Return how far ahead of this host's monotonic clock the server's was then, 0 if that is unknown.

        On another host, or after a restart of this one, only the time of day is left to tell.
        """
        if not self.monotonic_ms:
            return 0
        if self.boot and self.boot == boot_id():
            return self.monotonic_ms
        return max(0, self.wall_ms + now_ms() - monotonic_ms())


def boot_id() -> str:
    """Return what identifies the host's run since its boot, "" if that is unknown."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
