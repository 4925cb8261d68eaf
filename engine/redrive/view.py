"""What a redrive looks like on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.redrive.run import Nobody, Observer, Summary
from engine.text import shown


class _Bars:
    """One bar a source."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = TaskID(0)

    def begins(self, source: str, total: int | None) -> None:
        """Show a new bar."""
        self._task = self._progress.add_task(escape(shown(source)), total=total, sent=0)

    def advances(self, weight: int, sent: int) -> None:
        """Move the newest bar."""
        self._progress.update(self._task, advance=weight, sent=sent)


@contextmanager
def observer() -> Iterator[Observer]:
    """Give an observer that shows progress on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield Nobody()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[sent]:,} sent"), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(progress)


def summary_view(summary: Summary) -> Table:
    """Return what became of the letters, for people."""
    table = Table(box=None, pad_edge=False)
    table.add_column("dead letters in", overflow="fold")
    for name in ("read", "sent", "kept"):
        table.add_column(name, justify="right")
    for tally in summary.sources:
        table.add_row(escape(shown(tally.source)), f"{tally.read:,}", f"{tally.sent:,}", f"{tally.kept:,}")
    return table


def problems_of(summary: Summary) -> list[str]:
    """Return all that went wrong, a line each."""
    return [*(problem for tally in summary.sources for problem in tally.problems), *summary.problems]
