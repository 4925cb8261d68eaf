"""The gate: the last results' ratios against a stored baseline; fails beyond the noise. ``make bench-gate``.

Only ratios are gated, for absolute times move from machine to machine and from hour to hour: figures that are ratios by
themselves, and times in yardsticks that were taken beside them (`benchmarks.measured.parse`).
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.judged.compare import Verdict, judge, table_of
from benchmarks.judged.results import REPORT, Results, ResultsError, read
from benchmarks.stand.harness import Figure, in_yardsticks

BASELINE = Path("benchmarks/judged/baseline.json")
RATIOS = ("capture_headroom",)
RUNS_MIN = 5
"""The interval of fewer is no more than how far they lie apart."""
TOLERANCE = 0.10
"""Beside the interval of the runs: what a machine of another kind may move a ratio by."""


class Baseline(msgspec.Struct, frozen=True):
    """The ratios that later ones are compared with, and when they were taken."""

    taken_at: str
    ratios: list[Figure]


def ratios_of(results: Results) -> list[Figure]:
    """Return the results' ratios; raise `ResultsError` if there are none, or too few runs of them."""
    found = [ratio for one in results.figures if (ratio := in_yardsticks(one)) is not None]
    is_ratio = [one for one in results.figures if one.name in RATIOS or one.unit == "y"]
    found += [msgspec.structs.replace(one, note="") for one in is_ratio]
    found = [one for one in found if len(one.runs) >= RUNS_MIN]
    if not found:
        raise ResultsError(f"there are no {RUNS_MIN} runs of any ratio: run make bench, without QUICK")
    return found


def gate(baseline: Baseline, results: Results) -> tuple[list[Verdict], list[str]]:
    """Return the verdicts, and why it fails: ratios that are worse beyond noise and tolerance, or missing."""
    now = {one.name: one for one in ratios_of(results)}
    verdicts, failed = [], []
    for before in baseline.ratios:
        one = now.get(before.name)
        if one is None:
            failed.append(f"{before.name} was not measured{_why_not(results, before.name)}")
            continue
        verdict = judge(before, one)
        verdicts.append(verdict)
        is_far = abs(verdict.ratio - 1) > TOLERANCE
        if verdict.word == "worse" and is_far:
            failed.append(f"{before.name} is {verdict.ratio:.2f} of the baseline's")
    return verdicts, failed


def _why_not(results: Results, name: str) -> str:
    found = results.figure(name.partition("/")[0])
    return f" ({found.note})" if found is not None and found.value is None else ""


@click.command()
@click.option("--update", is_flag=True, help="Make the last results the baseline.")
@click.option("--results", "path", type=click.Path(path_type=Path), default=REPORT, show_default=True)
@click.option("--baseline", "base_path", type=click.Path(path_type=Path), default=BASELINE, show_default=True)
def main(update: bool, path: Path, base_path: Path) -> None:
    """Fail where a ratio is worse than the baseline's, beyond the noise."""
    try:
        results = read(path)
        ratios = ratios_of(results)
        if update:
            taken = Baseline(results.measured_at or time.strftime("%Y-%m-%d"), ratios)
            base_path.write_bytes(msgspec.json.format(msgspec.json.encode(taken)) + b"\n")
            click.echo(f"{len(ratios)} ratios written to {base_path}")
            return
        baseline = msgspec.json.decode(base_path.read_bytes(), type=Baseline)
    except ResultsError as error:
        raise click.ClickException(str(error)) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise click.ClickException(f"{base_path} holds no baseline: {error}; --update makes one") from error
    verdicts, failed = gate(baseline, results)
    Console().print(table_of(verdicts, f"the baseline of {baseline.taken_at}", str(path)))
    if failed:
        raise click.ClickException("; ".join(failed))
    click.echo("the gate is passed: no ratio is worse than the baseline's beyond the noise")


if __name__ == "__main__":
    main()
