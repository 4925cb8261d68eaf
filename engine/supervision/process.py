"""Forking: what a new process closes, resets and says before its work begins, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Protocol

from setproctitle import setproctitle

from engine.config import LogSettings
from engine.errors import EngineError
from engine.lifecycle import Channel
from engine.observe import logs
from engine.supervision import signals

log = logs.get_logger(__name__)

SEND_S_MAX = 1
"""A child that takes no message for this long is stopped or stuck: the supervisor must not wait for it."""
KILLED_S_MAX = 5.0
EXIT_CRASHED = 70
"""EX_SOFTWARE of sysexits.h: a bug, not a user's mistake."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Closable(Protocol):
    """Something with descriptors that a new process must not keep open."""

    def close(self) -> None:
        """Close them."""


def fork_process(name: str, work: Callable[[], int], settings: LogSettings, inherited: Iterable[Closable]) -> int:
    """Fork a process that does this work and exits with what it returns; return its process id.

    ``inherited`` are the descriptors of the parent that the new process closes: while one child held
    another's channel open, that one would never learn that the supervisor is gone.
    """
    _flush()
    parent = os.getpid()
    with signals.blocked():
        pid = os.fork()
        if pid:
            return pid
        status = EXIT_CRASHED
        try:
            status = run_guarded(lambda: _settle_in(name, settings, inherited, parent) or work())
        finally:
            _flush()
            os._exit(status)


def _settle_in(name: str, settings: LogSettings, inherited: Iterable[Closable], parent: int) -> int:
    _die_with(parent)
    signals.leave_to_supervisor()
    for one in inherited:
        one.close()
    setproctitle(f"engine: {name}")
    logs.configure(settings, name)
    return 0


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends; outside Linux the lifeline does."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_CRASHED)


def run_guarded(work: Callable[[], int]) -> int:
    """Return the exit status of this work; what it raises becomes one line of log."""
    try:
        return work()
    except EngineError as error:
        log.error("failed", error=error.message, hint=error.hint)
        return error.exit_code
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        log.error("crashed", error=f"{type(error).__name__}: {error}", at=f"{where.filename}:{where.lineno}")
        log.debug("crashed_at", exc_info=True)
        return EXIT_CRASHED


def reap() -> list[tuple[int, int]]:
    """Return (process id, exit status or negative signal) of the children that ended; never blocks."""
    ended: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def kill(pid: int) -> None:
    """Kill a child that was not reaped yet."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def ends_within(pid: int, limit_s: float) -> bool:
    """Tell whether a child ends by itself within this time; it is reaped then."""
    deadline = time.monotonic() + limit_s
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def kill_all(pids: Iterable[int]) -> None:
    """Kill these, and wait until no child of this process is left, for at most a few seconds."""
    for pid in pids:
        kill(pid)
    deadline = time.monotonic() + KILLED_S_MAX
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() < deadline:
            time.sleep(0.005)


def bound_sends(channel: Channel) -> None:
    """Let a send fail rather than wait for a child that reads nothing."""
    with socket.socket(fileno=os.dup(channel.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S_MAX, 0))


def _flush() -> None:
    """Write out what is buffered, so that no child writes it a second time."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
