"""``make plan``: what a deployment takes, by the last calibration."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.capacity.assumed import settings_text
from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.plan import Deployment, Impossible, Wish, deploy
from benchmarks.capacity.prices import FILE, Prices, PricesError, read_prices
from benchmarks.capacity.scans import plan_scans, row_of

RESULTS = Path("reports/bench.json")


class _Results(msgspec.Struct):
    """Of the results only what is needed: the rest is for the report."""

    calibration: Calibration | None = None
    measured_at: str = ""


def calibration_from(path: Path) -> tuple[Calibration, str]:
    """Return the calibration and where it is from; the documented one where nothing was measured here."""
    documented = "documented figures of another machine: run make bench for this one's"
    try:
        results = msgspec.json.decode(path.read_bytes(), type=_Results)
    except FileNotFoundError:
        return Calibration(), documented
    except (OSError, msgspec.MsgspecError) as error:
        raise click.ClickException(f"{path} holds no results of make bench: {error}") from error
    if results.calibration is None:
        return Calibration(), documented
    return results.calibration, f"{path}, measured {results.measured_at}"


def rows_of(plan: Deployment, prices: Prices) -> list[tuple[str, str, str]]:
    """Return the plan as (part, what, note)."""
    first, currency = plan.breaks_first, prices.currency
    return [
        (
            "engine",
            f"--shards {plan.shards} --invokers {plan.invokers}",
            f"{'each host; ' if plan.hosts > 1 else ''}{plan.cores:.1f} cores used",
        ),
        ("hosts", f"{plan.hosts} × {plan.host.name}", _host_note(plan)),
        (
            "deliveries",
            f"{plan.delivered_per_s:,.0f}/s",
            f"of {plan.wish.rate_per_s:,.0f}; the rest coalesces",
        ),
        ("lag", f"{plan.lag_ms:.0f} ms", f"the {plan.wish.percentile:g}th percentile, modelled"),
        ("Lambda", f"{plan.concurrency} at once", _lambda_note(plan)),
        ("DynamoDB", f"{plan.write_units_per_s:,.0f} write units/s", "on demand, one partition key a Redis key"),
        ("Redis", f"{plan.server.busy_with:.0%} of its thread", _server_note(plan)),
        ("memory", f"{plan.memory_gib:.1f} GiB", _memory_note(plan)),
        ("network", f"{plan.network_gbit_s:.2f} Gbit/s", "events, reads, payloads"),
        ("breaks first", first.part, f"at {first.rate_per_s:,.0f} changes/s"),
        ("a month", f"{plan.costs.total:,.0f} {currency}", _cost_note(plan)),
    ]


def _host_note(plan: Deployment) -> str:
    note = f"{plan.host.cores} cores, {plan.host.memory_gib:g} GiB"
    return note if plan.hosts == 1 else f"{note} each, with --slice 0/{plan.hosts} to {plan.hosts - 1}/{plan.hosts}"


def _memory_note(plan: Deployment) -> str:
    return f"{'of each host, ' if plan.hosts > 1 else ''}in an outage: rings, and keys that wait, at their bounds"


def _lambda_note(plan: Deployment) -> str:
    return f"{plan.invocations_per_s:,.0f} invocations/s of {plan.records_per_invocation:,.0f} records on average"


def _server_note(plan: Deployment) -> str:
    server = plan.server
    return f"{server.busy_without:.0%} without the engine; patterns take {server.busy_by_patterns:.0%}"


def _cost_note(plan: Deployment) -> str:
    costs = plan.costs
    parts = {"hosts": costs.hosts, "requests": costs.lambda_requests, "functions' time": costs.lambda_time}
    parts["write units"] = costs.write_units
    if costs.endpoints:
        parts["interface endpoints"] = costs.endpoints
    told = ", ".join(f"{name} {cost:,.0f}" for name, cost in parts.items())
    return f"{told}; steady load, without the cache"


@click.command()
@click.option("--rate", type=float, required=True, help="Changes a second.")
@click.option("--keys", type=float, required=True, help="Keys that change.")
@click.option("--bytes", "value_bytes", type=float, default=200, show_default=True, help="Of a value.")
@click.option("--lag-ms", type=float, default=250, show_default=True, help="Change to destination, at the percentile.")
@click.option("--percentile", type=float, default=99, show_default=True)
@click.option("--skew", type=float, default=0, show_default=True, help="Zipf's exponent; 0 is uniform.")
@click.option("--window-s", type=float, default=0, show_default=True, help="maximum_batching_window_in_seconds.")
@click.option("--scan-period-s", type=click.FloatRange(1), help="Changes are found by scans, within this time.")
@click.option("--from", "results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--prices", "prices_file", type=click.Path(path_type=Path), default=FILE, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def main(
    rate: float,
    keys: float,
    value_bytes: float,
    lag_ms: float,
    percentile: float,
    skew: float,
    window_s: float,
    scan_period_s: float | None,
    results: Path,
    prices_file: Path,
    as_json: bool,
) -> None:
    """Tell what a deployment takes, what it costs a month, and what breaks first."""
    known, source = calibration_from(results)
    try:
        prices = read_prices(prices_file)
        plan = deploy(Wish(rate, keys, value_bytes, lag_ms, percentile, skew, window_s), known, prices)
    except (Impossible, PricesError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        told = {"plan": plan, "breaks_first": plan.breaks_first, "cost": plan.costs.total, "from": source}
        told["settings"] = settings_text(plan)
        if scan_period_s is not None:
            told["scan"] = plan_scans(keys, scan_period_s)
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    table = Table(title=f"{rate:,.0f} changes/s of {keys:,.0f} keys, {value_bytes:,.0f} bytes", show_header=False)
    for row in rows_of(plan, prices):
        table.add_row(*row)
    if scan_period_s is not None:
        table.add_row(*row_of(plan_scans(keys, scan_period_s)))
    console = Console(highlight=False)
    console.print(table)
    console.print("Assumed settings, ready to paste into engine.toml:\n")
    click.echo(settings_text(plan))
    console.print(f"\nThe function needs {plan.concurrency:,} reserved concurrency at least.")
    console.print(f"by {source}; prices of {prices.as_of}, {prices.source} ({prices_file})")


if __name__ == "__main__":
    main()
