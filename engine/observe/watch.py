"""``engine status --watch``: the status as it changes, until stopped."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from engine.clock import now_ms
from engine.errors import EngineError
from engine.observe.health import health_of, nobody
from engine.observe.status import read_status
from engine.observe.status_view import line_view, status_view
from engine.text import shown, shown_json


def watch(
    path: str, every_s: float, console: Console, *, as_json: bool, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Show the status file's content every ``every_s`` until interrupted, also that no engine runs; return 0.

    A terminal shows all of it in one place; elsewhere each look is one line, of JSON where that is wanted.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if console.is_terminal and not as_json:
            with Live(_view(path), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    sleep(every_s)
                    live.update(_view(path), refresh=True)
        while True:
            print(_line(path, as_json=as_json), flush=True)
            sleep(every_s)
    return 0


def _view(path: str) -> Any:
    moment_ms = now_ms()
    try:
        content = read_status(path, moment_ms)
    except EngineError as error:
        return Text(f"not well: {shown(str(error))}", style="bold red")
    return status_view(content, health_of(content, moment_ms), moment_ms)


def _line(path: str, *, as_json: bool) -> str:
    moment_ms = now_ms()
    try:
        health = health_of(read_status(path, moment_ms), moment_ms)
    except EngineError as error:
        health = nobody(str(error))
    return shown_json(json.dumps({"at_ms": moment_ms, **health.as_json()})) if as_json else line_view(health, moment_ms)
