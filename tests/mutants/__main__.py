"""Play the mutants: ``python -m tests.mutants [--only NAME]… [--share K/N] [--jobs N] [--list]``."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from tests.mutants.mutant import ROOT, Mutant, load
from tests.mutants.run import Copy, Fate, Result
from tests.shares import parse, share_of, share_option

JOBS = max(1, min(4, os.cpu_count() or 1))


@click.command(help="Break each line that keeps a promise, and see that a test fails.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only mutants whose name or file contains this. Repeatable."
)
@share_option
@click.option("--jobs", type=click.IntRange(1), default=JOBS, show_default=True, help="Mutants at once.")
@click.option("--list", "list_only", is_flag=True, help="Print names and promises.")
@click.option("--sound", is_flag=True, help="First see that the tests pass on the code as it is.")
def main(only: tuple[str, ...], share: str, jobs: int, list_only: bool, sound: bool) -> None:
    """Play, report, and exit: 0 where every mutant was killed, 1 otherwise, 2 where none was chosen."""
    console = Console(highlight=False, soft_wrap=True)
    mutants = share_of(_chosen(only), *parse(share))
    if not mutants:
        console.print("no mutant has such a name; --list shows them")
        sys.exit(2)
    if list_only:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.promise} ({mutant.file})")
        return
    if sound and (problem := _unsound(mutants)):
        console.print(f"[red]the tests fail on the code as it is[/red]: {escape(problem)}")
        sys.exit(1)
    fates: Counter[Fate] = Counter()
    for result in play_all(mutants, jobs):
        fates[result.fate] += 1
        mark = "[green]" if result.fate is Fate.KILLED else "[red]"
        line = f"{mark}{result.fate}[/] {escape(result.mutant.name)} {result.took_s:.0f} s"
        console.print(line if result.fate is Fate.KILLED else f"{line}: {escape(result.words)}")
    console.print(f"{fates[Fate.KILLED]} of {len(mutants)} mutants killed")
    sys.exit(0 if fates[Fate.KILLED] == len(mutants) else 1)


def _chosen(only: Sequence[str]) -> list[Mutant]:
    return [one for one in load() if not only or any(part in one.name or part in one.file for part in only)]


def _unsound(mutants: Sequence[Mutant]) -> str:
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        status, words = Copy(Path(folder) / "project").run_tests(tests)
    return "" if status == 0 else words


def play_all(mutants: Sequence[Mutant], jobs: int) -> Iterator[Result]:
    """Play all, ``jobs`` at once, each job in a copy of its own; yield results as they come."""
    waiting: queue.SimpleQueue[Mutant | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[Result] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)

    def work(folder: Path) -> None:
        copy = Copy(folder)
        while (mutant := waiting.get()) is not None:
            done.put(copy.play(mutant))

    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        threads = []
        for number in range(min(jobs, len(mutants))):
            waiting.put(None)
            thread = threading.Thread(target=work, args=(Path(scratch) / f"project-{number}",), daemon=True)
            thread.start()
            threads.append(thread)
        for _ in mutants:
            yield done.get()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    assert Path.cwd() == ROOT, "run it in the project's folder"
    main()
