"""What a million changes cost AWS's meters: requests, Lambda milliseconds, write units. From what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec
from rich.table import Table

from benchmarks.measured.functions import FunctionRun

MILLION = 1_000_000


class Cost(msgspec.Struct):
    """What a million delivered changes take in one write mode, with batches of one size.

    ``lambda_ms`` is the function's time at the embedded DynamoDB's speed, on this machine; Lambda bills it by the
    millisecond and the memory. ``dynamodb_requests`` are HTTP calls, which AWS does not bill. A change that was
    coalesced into another was not delivered, and costs none of this.
    """

    mode: str
    records_per_invocation: float
    lambda_requests: float
    lambda_ms: float
    dynamodb_requests: float
    write_units: float


def cost_of(mode: str, runs: Sequence[FunctionRun]) -> Cost:
    """Return the cost by the medians of these runs, all of one mode and size."""
    size = runs[0].batch_size
    calls, units, batch_ms = (
        statistics.median(getattr(run, name) for run in runs) for name in ("calls", "write_units", "batch_ms")
    )
    invocations = MILLION / size
    return Cost(mode, size, round(invocations), round(invocations * batch_ms), round(calls), round(units))


def table_of(costs: Sequence[Cost]) -> Table:
    """Return the table that people read."""
    table = Table(title="A million delivered changes, items under 1 KB, by the DynamoDB function")
    table.add_column("write mode")
    columns = {
        "records_per_invocation": "records an invocation",
        "lambda_requests": "Lambda requests",
        "lambda_ms": "Lambda ms",
        "dynamodb_requests": "DynamoDB requests",
        "write_units": "write units",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for cost in costs:
        table.add_row(cost.mode, *(f"{getattr(cost, name):,.0f}" for name in columns))
    return table
