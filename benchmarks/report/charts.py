"""Charts as SVG, for screen, print and the colour-blind: Okabe and Ito's colours, each with marker and dash."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.usl import Unidentifiable, Usl, fit
from benchmarks.judged.results import Series, Throughput
from benchmarks.stand.watch import Sample

mpl.use("svg")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
HEADROOM = 1.3
"""Of an axis over its highest value: room for a legend."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "figure.figsize": (7.2, 4.0),
}


@dataclass(frozen=True)
class Chart:
    """A drawing, what it shows in words, and its numbers as a table: (columns, rows)."""

    title: str
    text: str
    svg: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1_000:g}k" if abs(value) >= 1_000 else f"{value:g}"


def _drawn(draw: Callable[[Any], None], title: str) -> str:
    """Return the SVG, whose text is text, with its title for those who do not see it."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(layout="constrained")
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # As wide as the page; the viewBox keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
    return svg.replace(">", f"><title>{title}</title>", 1)


def _is_drawn(points: Sequence[object]) -> bool:
    """Tell whether there is a line to draw: one point is none, and says no more than its number."""
    return len(points) >= 2


def lag_over_load(series: Series) -> Chart:
    """Draw the lag's percentiles over the rate."""
    points = [one for one in series.lag_over_load if one.p50_ms > 0]
    names = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"))

    def draw(axes: Any) -> None:
        rates = [one.rate_per_s for one in points]
        for place, (label, name) in enumerate(names):
            values = [getattr(one, name) for one in points]
            axes.plot(rates, values, color=COLOURS[place], marker=MARKERS[place], linestyle=DASHES[place], label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("changes a second (log)")
        axes.set_ylabel("lag, ms (log)")
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.legend(title="percentile")

    rows = [
        (f"{one.rate_per_s:,.0f}", *(f"{getattr(one, name):,.1f}" for _, name in names), f"{one.busy:.0%}")
        for one in points
    ]
    return Chart(
        "Lag over load",
        "From when a change was due to its request at the function, received whole. Beyond saturation the lag is that "
        "of the queue, and grows with the length of the run.",
        _drawn(draw, "Lag over load") if _is_drawn(points) else "",
        ("changes/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "cores used"),
        rows,
    )


def stages(series: Series) -> Chart:
    """Draw the lag up to each stage."""
    found = series.stages
    names = (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"))

    def draw(axes: Any) -> None:
        for place, (label, name) in enumerate(names):
            heights = [getattr(one, name) for one in found]
            at = [number + (place - 1) * 0.27 for number in range(len(found))]
            axes.bar(
                at, heights, 0.25, color=COLOURS[place], hatch=("", "//", "xx")[place], edgecolor="white", label=label
            )
        axes.set_xticks(range(len(found)), [one.stage for one in found])
        axes.set_ylabel("since due, ms")
        axes.grid(visible=False, axis="x")
        axes.legend()

    rows = [(one.stage, *(f"{getattr(one, name):,.2f}" for _, name in names)) for one in found]
    return Chart(
        "Lag by stage, at half of saturation",
        "From when a change was due: answered to the application, captured by a subscriber (to 1 ms), its value read, "
        "its request received by the function.",
        _drawn(draw, "Lag by stage") if found else "",
        ("stage", "p50 ms", "p99 ms", "p99.9 ms"),
        rows,
    )


def throughput(points: Sequence[Throughput], what: str, by_cpu: Usl | None) -> Chart:
    """Draw throughput over shards or invokers, with the fitted law, and the one that the plan takes."""
    try:
        law = fit([(one.count, one.events_per_s) for one in points])
        said = f"Fitted: σ = {law.contention:.3f}, κ = {law.coherency:.4f}."
    except Unidentifiable as error:
        law, said = None, f"No law is fitted: {error}."

    def draw(axes: Any) -> None:
        counts, most = [one.count for one in points], 0.0
        axes.plot(counts, [one.events_per_s for one in points], "o", color=COLOURS[0], label="measured", markersize=8)
        if law is not None:
            dense = [1 + place * (max(counts) * 1.5 - 1) / 60 for place in range(61)]
            axes.plot(dense, [law.throughput(n) for n in dense], DASHES[1], color=COLOURS[1], label="fitted law")
            if by_cpu is not None:
                alone = law.throughput(1)
                values = [alone * n * by_cpu.efficiency(n) for n in dense]
                axes.plot(dense, values, DASHES[3], color=COLOURS[2], label="predicted, a core for each")
                most = max(values)
        axes.set_xlabel(what)
        axes.set_ylabel("events a second")
        axes.set_xticks(counts)
        axes.set_ylim(0, 1.2 * max(most, *(one.events_per_s for one in points)))
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.legend()

    rows = [(str(one.count), f"{one.events_per_s:,.0f}") for one in points]
    return Chart(
        f"Throughput over {what}",
        f"At full load, distinct keys, all on this machine, whose cores they share. {said} What they would do with a "
        "core each is predicted by the CPU of an event, as plans count with it; one primary may publish less.",
        _drawn(draw, f"Throughput over {what}") if _is_drawn(points) else "",
        (what, "events/s"),
        rows,
    )


def cpu(series: Series) -> Chart:
    """Draw the CPU an event of each part."""
    found = series.cpu_by_stage

    def draw(axes: Any) -> None:
        names = [one.stage for one in found][::-1]
        values = [one.us_per_event for one in found][::-1]
        bars = axes.barh(names, values, color=COLOURS[0])
        axes.bar_label(bars, [f" {value:.1f}" for value in values])
        axes.set_xlabel("CPU, µs a change")
        axes.grid(visible=False, axis="y")

    return Chart(
        "CPU of each part, at half of saturation",
        "Redis, the engine's processes, the function's runtime, and the load's own senders; at half load batches are "
        "small, so that a change costs more than at full load.",
        _drawn(draw, "CPU of each part") if found else "",
        ("part", "µs a change", "context switches a change"),
        [(one.stage, f"{one.us_per_event:,.2f}", f"{one.switches_per_event:,.3f}") for one in found],
    )


def memory(found: Sequence[Sample], title: str, text: str) -> Chart:
    """Draw the engine's memory over the time of a run, and what waits."""

    def draw(axes: Any) -> None:
        minutes = [one.at_s / 60 for one in found]
        axes.plot(minutes, [one.memory_mib for one in found], color=COLOURS[0], label="memory")
        axes.set_xlabel("minutes")
        axes.set_ylabel("the engine's memory, MiB")
        axes.set_ylim(0, HEADROOM * max(one.memory_mib for one in found))
        waiting = axes.twinx()
        keys = [one.keys_waiting for one in found]
        waiting.plot(minutes, keys, color=COLOURS[1], linestyle=DASHES[1], label="keys that wait")
        waiting.set_ylabel("keys that wait")
        waiting.set_ylim(0, HEADROOM * max(10, *keys))
        waiting.spines["right"].set_visible(True)
        waiting.grid(visible=False)
        waiting.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.legend(handles=[*axes.get_lines(), *waiting.get_lines()], loc="upper left")

    every = max(1, len(found) // 12)
    rows = [
        (f"{one.at_s:,.0f}", f"{one.memory_mib:,.1f}", f"{one.keys_waiting:,}", str(one.descriptors))
        for one in found[::every]
    ]
    return Chart(
        title,
        f"{text} The proportional memory of all of the engine's processes: what they share counts once.",
        _drawn(draw, title) if _is_drawn(found) else "",
        ("s", "MiB", "keys that wait", "descriptors"),
        rows,
    )


def all_of(series: Series, known: Calibration | None) -> list[Chart]:
    """Return every chart; ``known`` has the laws that the plan takes."""
    known = known or Calibration()
    return [
        lag_over_load(series),
        stages(series),
        throughput(series.throughput_over_shards, "shards", known.shards_usl),
        throughput(series.throughput_over_invokers, "invokers", known.invokers_usl),
        cpu(series),
        memory(
            series.memory,
            "Memory while the load grows",
            "In the search for saturation: each load is higher or lower than the one before, some are too much.",
        ),
        memory(series.soak_memory, "Memory over a soak", "make soak: long, at half of saturation."),
    ]
