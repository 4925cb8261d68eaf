"""Two results against each other, with the noise in mind: ``make compare A=… B=…``.

Of each figure the runs of both are compared: the ratio of their medians, and an interval for it by bootstrap (runs
drawn again, with replacement, from each side). A verdict is given only where the interval leaves 1 out, and where there
are enough runs. What the machine's own speed does is taken out where each run has a yardstick that was taken beside it,
and by a reference of the same runs (`against`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.judged.results import Results, ResultsError, read
from benchmarks.stand.harness import Figure, in_yardsticks

RUNS_MIN = 3
"""Fewer runs on either side say nothing of the noise."""
DRAWS = 4_000
TIMES = frozenset({"µs", "ms", "s"})
CONFIDENCE = 0.95
AT_HALF, SAME_LOAD = "half_", 0.1
NOISE_MIN = 0.03
"""A difference of less than this part is none, whatever the runs say."""

Word = Literal["better", "worse", "no verdict", "too few runs", "another load"]


class Verdict(msgspec.Struct, frozen=True):
    """B against A: ``ratio`` of the medians, and the interval that holds it."""

    name: str
    unit: str
    a: float
    b: float
    ratio: float
    low: float
    high: float
    word: Word


def ratio_interval(a: Sequence[float], b: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """Return an interval for median(b) / median(a)."""
    chance = np.random.default_rng(seed)
    one, other = np.asarray(a, float), np.asarray(b, float)
    below = np.median(chance.choice(one, (DRAWS, len(one))), axis=1)
    above = np.median(chance.choice(other, (DRAWS, len(other))), axis=1)
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(above / np.where(below == 0, np.nan, below), [edge, 1 - edge])
    return float(low), float(high)


def is_lower_better(figure: Figure) -> bool:
    """Tell which way is better: by its goal, else by its unit."""
    if figure.goal:
        return figure.goal.startswith("<=")
    return figure.unit in {*TIMES, "B", "y", "1/M"}


def judge(a: Figure, b: Figure) -> Verdict:
    """Return the verdict on one figure that both have."""
    assert a.value is not None
    assert b.value is not None
    low, high = float("nan"), float("nan")
    word: Word = "too few runs"
    if min(len(a.runs), len(b.runs)) >= RUNS_MIN and all(run > 0 for run in (*a.runs, *b.runs)):
        low, high = ratio_interval(a.runs, b.runs)
        is_above, is_below = low > 1 + NOISE_MIN, high < 1 - NOISE_MIN
        word = "no verdict"
        if is_above or is_below:
            word = "worse" if is_above == is_lower_better(b) else "better"
    ratio = b.value / a.value if a.value else float("nan")
    return Verdict(b.name, b.unit, a.value, b.value, round(ratio, 4), round(low, 4), round(high, 4), word)


def compare(a: Results, b: Results) -> list[Verdict]:
    """Return the verdicts on all figures that both have, and on their times in yardsticks where both took them."""
    found = []
    for figure in b.figures:
        other = a.figure(figure.name)
        if other is None or other.value is None or figure.value is None:
            continue
        verdict = judge(other, figure)
        if figure.name.startswith(AT_HALF) and not _is_same_load(a, b):
            verdict = msgspec.structs.replace(verdict, word="another load")
        found.append(verdict)
        before, after = in_yardsticks(other), in_yardsticks(figure)
        if before is not None and after is not None:
            found.append(judge(before, after))
    return found


def _is_same_load(a: Results, b: Results) -> bool:
    """Tell whether both have saturated at about one rate: the lag at half of it is then of one load."""
    found = [one.value for results in (a, b) if (one := results.figure("saturation_events_per_s")) is not None]
    rates = [value for value in found if value is not None]
    return len(rates) < 2 or abs(rates[0] - rates[1]) <= SAME_LOAD * max(rates)


def against(results: Results, reference: str) -> Results:
    """Return the results with each figure as a ratio to one of the same runs, which the machine's speed moves alike.

    Rates are divided by it, times multiplied where it is a rate; what is neither, and what has not as many runs, is
    left out.
    """
    base = results.figure(reference)
    if base is None or len(base.runs) < RUNS_MIN:
        raise ResultsError(f"there are no {RUNS_MIN} runs of {reference} to compare by")
    is_rate = base.unit.endswith("/s")
    figures = []
    for one in results.figures:
        is_speed = one.unit.endswith("/s") or one.unit in TIMES
        if one.name == reference or len(one.runs) != len(base.runs) or not is_speed:
            continue
        divides = one.unit.endswith("/s") == is_rate
        runs = [run / by if divides else run * by for run, by in zip(one.runs, base.runs, strict=True)]
        figures.append(msgspec.structs.replace(one, value=float(np.median(runs)), runs=runs, yardsticks=[]))
    return msgspec.structs.replace(results, figures=figures)


def table_of(verdicts: Sequence[Verdict], a: str, b: str) -> Table:
    """Return the table that people read."""
    table = Table(title=f"{b} against {a}")
    for title in ("figure", "A", "B", "B / A", f"{CONFIDENCE:.0%} interval", "verdict"):
        # Of a narrow terminal the names keep their room.
        is_name = title == "figure"
        table.add_column(
            title, justify="left" if title in {"figure", "verdict"} else "right", no_wrap=is_name, overflow="fold"
        )
    colours = {"better": "green", "worse": "red"}
    for one in verdicts:
        interval = f"{one.low:.2f} … {one.high:.2f}" if one.low == one.low else "–"
        colour = colours.get(one.word, "")
        word = f"[{colour}]{one.word}[/{colour}]" if colour else one.word
        table.add_row(one.name, f"{one.a:,.2f}", f"{one.b:,.2f}", f"{one.ratio:.2f}", interval, word)
    return table


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--reference", help="Compare ratios to this figure of the same runs, as original_events_per_s.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def main(a: Path, b: Path, reference: str | None, as_json: bool) -> None:
    """Compare the results B with A, figure by figure."""
    try:
        one, other = read(a), read(b)
        if reference:
            one, other = against(one, reference), against(other, reference)
    except ResultsError as error:
        raise click.ClickException(str(error)) from error
    verdicts = compare(one, other)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(verdicts)).decode())
        return
    Console().print(table_of(verdicts, str(a), str(b)))
    if one.machine != other.machine:
        print("compare: A and B are of different machines: compare ratios (--reference)", file=sys.stderr)
    if (one.seed, one.quick) != (other.seed, other.quick):
        print("compare: A and B were not measured alike: with another seed, or one of them quickly", file=sys.stderr)


if __name__ == "__main__":
    main()
