"""How far an audit is, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engine.audit.compare import Progress as Report
from engine.text import shown


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Show a bar on standard error while the block runs, if that is a terminal; it is gone afterwards."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
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
