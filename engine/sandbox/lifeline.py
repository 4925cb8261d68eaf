"""The child's side of a sandbox process: told what to do on stdin, ready on stdout, ended with its parent.

The parent keeps the child's stdin open. The kernel closes it when the parent ends, however it ends; so nothing is left
running after a SIGKILL, on Linux and macOS alike, whichever thread started the child. (The parent-death signal of
Linux fires when the *thread* that forked ends.)
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


def read_instructions() -> dict[str, Any]:
    """Return what the parent wrote: one JSON object on one line."""
    line = bytearray()
    while not line.endswith(b"\n"):
        # Byte by byte, past any buffer: what follows the line belongs to the lifeline.
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        line += byte
    instructions: dict[str, Any] = json.loads(line)
    return instructions


def announce_ready() -> None:
    """Tell the parent that requests are answered from now on."""
    _announce({"ready": True})
    # Nobody reads the pipe any more; what is printed from here on must not fill it up.
    os.dup2(2, 1)


def announce_failure(message: str, hint: str = "") -> None:
    """Tell the parent why this process can't do its work, before it ends."""
    _announce({"ready": False, "message": message, "hint": hint})


def watch_lifeline(on_parent_gone: Callable[[], None], lifeline: int = 0) -> None:
    """Call ``on_parent_gone``, from a thread of its own, once the parent has closed the lifeline or ended."""

    def watch() -> None:
        while os.read(lifeline, 4096):
            pass
        on_parent_gone()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def exit_at_once() -> None:
    """End this process without clean-up."""
    os._exit(1)


def _announce(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
