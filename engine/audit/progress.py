"""How far an audit is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engine.audit.compare import Progress as Report
from engine.text import shown

LINE_EVERY_S = 5.0


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Show a bar on standard error while the block runs, or a line every few seconds if that is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: print(line, file=sys.stderr, flush=True), time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("connecting", total=None)
        counted = ""

        def report(what: str, done: int, total: int | None) -> None:
            nonlocal counted
            if done and what != counted:
                counted = what
                bar.reset(task, total=total)
            bar.update(task, description=escape(shown(what)), advance=done)

        yield report


class Lines:
    """Progress as lines, a few seconds apart; thread-safe. Nothing is printed for what ends sooner."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._lock = threading.Lock()
        self._began_s = self._said_s = clock()
        self._counted = ""
        self._done = 0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Take a report, as `Report` defines it."""
        with self._lock:
            if done and what != self._counted:
                self._counted, self._done = what, 0
            self._done += done
            now_s = self._clock()
            if now_s - self._said_s < LINE_EVERY_S:
                return
            self._said_s = now_s
            of = f" of {total:,}" if total else ""
            count = f": {self._done:,}{of}" if done else ""
            self._write(f"engine: audit: {shown(what)}{count} ({now_s - self._began_s:,.0f} s)")
