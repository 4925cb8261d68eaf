"""The report's two forms, of the same content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.command import rows_of
from benchmarks.capacity.plan import Impossible, Wish, deploy
from benchmarks.capacity.prices import FILE, PricesError, read_prices
from benchmarks.capacity.usl import Usl
from benchmarks.judged.results import Results, ResultsError
from benchmarks.report import charts
from benchmarks.report.words import OTHERS, QUESTIONS, question_of, title_of, verdict_of
from benchmarks.stand.harness import in_yardsticks

EXAMPLE = Wish(rate_per_s=20_000, keys=1_000_000, value_bytes=400, lag_ms=250)
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
"""What lies between these lines of a document is written by `write_into`."""
_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Columns, and rows of text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def write_pages(results: Results, folder: Path) -> list[Path]:
    """Write ``bench.html`` and ``bench.md``; return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    content = content_of(results)
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    written = []
    for name, escapes in (("bench.html", True), ("bench.md", False)):
        environment = jinja2.Environment(loader=loader, autoescape=escapes, trim_blocks=True, lstrip_blocks=True)
        path = folder / name
        path.write_text(environment.get_template(f"{name}.j2").render(**content))
        written.append(path)
    return written


def write_into(results: Results, path: Path) -> None:
    """Replace the figures of a document, between its two marks, by those of these results."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ResultsError(f"{path} has no place for figures: it needs the lines {BEGIN} and {END}, once each")
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    figures = environment.get_template("figures.md.j2").render(**content_of(results))
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}")


def content_of(results: Results) -> dict[str, object]:
    """Return what both forms tell."""
    drawn = charts.all_of(results.series, results.calibration)
    plan, plan_note = plan_of(results.calibration)
    return {
        "results": results,
        "verdict": verdict_of(results),
        "has_yardsticks": any(one.yardsticks for one in results.figures),
        "groups": groups_of(results),
        "notes": {one.name: one.note for one in results.figures if one.note},
        "charts": [(chart, Markup(chart.svg)) for chart in drawn],
        "costs": costs_of(results),
        "example": f"{EXAMPLE.rate_per_s:,.0f} changes/s of {EXAMPLE.keys:,.0f} keys, {EXAMPLE.value_bytes:,.0f} bytes",
        "calibration": calibration_of(results.calibration),
        "plan": plan,
        "plan_note": plan_note,
        "machine": {**results.machine, **results.versions},
    }


def groups_of(results: Results) -> list[tuple[str, Table]]:
    """Return the figures by the question that they answer, as they are read; the last column is the code name."""
    rows: dict[str, list[tuple[str, ...]]] = {question: [] for question in (*QUESTIONS, OTHERS)}
    order = {name: place for place, name in enumerate(name for found in QUESTIONS.values() for name in found)}
    for one in sorted(results.figures, key=lambda one: order.get(one.name, len(order))):
        relation, _, bound = one.goal.partition(" ")
        goal = f"{'≤' if relation == '<=' else '≥'} {float(bound):,.10g}" if bound else ""
        spread = f"{one.spread:.0%}" if len(one.runs) > 1 else "–"
        value = one.text if one.value is None else f"{one.text} {one.unit}".strip()
        ratio = in_yardsticks(one)
        cells = (value, ratio.text if ratio else "–", spread, goal or "–", one.met or "–", one.name)
        rows[question_of(one.name)].append((title_of(one.name), *cells))
    columns = ("figure", "median", "in y", "spread", "goal", "met", "name")
    return [(question, Table(columns, found)) for question, found in rows.items() if found]


def costs_of(results: Results) -> Table:
    """Return what a million changes cost."""
    rows = [
        (
            one.mode,
            f"{one.records_per_invocation:,.0f}",
            f"{one.lambda_requests:,.0f}",
            f"{one.lambda_ms:,.0f}",
            f"{one.write_units:,.0f}",
        )
        for one in results.cost_per_million_changes
    ]
    return Table(("write mode", "records an invocation", "Lambda requests", "Lambda ms", "write units"), rows)


def calibration_of(known: Calibration | None) -> Table:
    """Return what the plan knows of this machine, name by name."""
    if known is None:
        return Table((), [])
    rows = [
        ("a subscriber, an event", f"{known.capture_cpu_us:,.2f} µs"),
        ("an invoker, a key: read, body, record, settling", f"{known.key_cpu_us:,.2f} µs"),
        ("an invoker, a KiB of a value", f"{known.value_cpu_us_per_kib:,.2f} µs"),
        ("an invoker, an invocation", f"{known.invoke_cpu_us:,.0f} µs"),
        ("Redis, an HSET with nobody listening", f"{known.server_cpu_us:,.2f} µs"),
        ("Redis, what notifications add", f"{known.notify_cpu_us:,.2f} µs"),
        ("Redis, what each pattern adds", f"{known.pattern_cpu_us:,.2f} µs"),
        ("Redis, the read of a key", f"{known.read_cpu_us:,.2f} µs"),
        ("lag where nothing waits, p50 and p99", f"{known.idle_lag_ms:,.1f} and {known.idle_lag_ms_p99:,.1f} ms"),
        ("a key that waits", f"{known.waiting_key_bytes:,.0f} bytes"),
        ("what the shards of a host lose to each other", _law(known.shards_usl)),
        ("what its invokers do", _law(known.invokers_usl)),
    ]
    return Table(("what", "CPU, time, memory"), rows)


def _law(law: Usl | None) -> str:
    if law is None:
        return "not known"
    return f"σ = {law.contention:.3f}, κ = {law.coherency:.4f}: of 8 the work of {8 * law.efficiency(8):.1f}"


def plan_of(known: Calibration | None) -> tuple[Table, str]:
    """Return the plan of an example, and what it rests on."""
    try:
        prices = read_prices(FILE)
        plan = deploy(EXAMPLE, known or Calibration(), prices)
    except (Impossible, PricesError) as error:
        return Table((), []), str(error)
    basis = "this run's calibration" if known is not None else "the documented figures of another machine"
    return Table(
        ("part", "what", "note"), rows_of(plan, prices)
    ), f"By {basis}, and the prices of {prices.as_of} in {FILE}."
