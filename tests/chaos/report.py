"""The report: a table for people, ``reports/chaos.json``, and ``reports/chaos.md`` for documents."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from engine.sandbox.valkey import find_server
from tests.servers import chosen_binary

DETAILS_SHOWN = 3


def machine() -> dict[str, Any]:
    """Return what the suite runs on."""
    server = subprocess.run(
        [chosen_binary() or find_server(), "--version"], capture_output=True, text=True, check=False
    )
    return {
        "machine": {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count()},
        "versions": {
            "engine": metadata.version("ingest-engine"),
            "python": platform.python_version(),
            "server": " ".join(server.stdout.split()[:4]),
            "dynamodb": f"moto {metadata.version('moto')}",
        },
    }


def write(path: Path, seed: int, is_quick: bool, faults: Sequence[dict[str, Any]], took_s: float) -> None:
    """Write the report's files."""
    report = {"seed": seed, "quick": is_quick, "took_s": round(took_s, 1), **machine(), "faults": list(faults)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    path.with_suffix(".md").write_text(markdown(seed, faults, took_s))


def markdown(seed: int, faults: Sequence[dict[str, Any]], took_s: float) -> str:
    """Return the results as a table for documents."""
    rounds = sum(line["rounds"] for line in faults)
    written = sum(line["written"] for line in faults)
    wrong = sum(line[what] for line in faults for what in ("lost", "stale", "invented"))
    rows = [
        f"{len(faults)} faults, {rounds} rounds, {written:,} changes acknowledged, {wrong} lost, stale or invented;"
        f" seed {seed}, {took_s / 60:.0f} minutes.",
        "",
        "| fault | written | keys | lost | stale | invented | twice | whole again (s) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in faults:
        wait = "never" if line["whole_again_s"] is None else f"{line['whole_again_s']:.1f}"
        counts = " | ".join(
            f"{line[what]:,}" for what in ("written", "keys", "lost", "stale", "invented", "duplicates")
        )
        name = line["name"] if line["struck"] else f"{line['name']} (did not strike)"
        rows.append(f"| {name} | {counts} | {wait} |")
    return "\n".join(rows) + "\n"


def one_line(line: dict[str, Any]) -> str:
    """Return what one fault came to, as it is printed when it is over."""
    wait = "never" if line["whole_again_s"] is None else f"{line['whole_again_s']:.1f} s"
    verdict = "[green]ok[/green]" if line["passed"] else "[red]FAILED[/red]"
    counts = f"lost {line['lost']}, stale {line['stale']}, invented {line['invented']}"
    return f"{verdict}  {line['name']}: {counts}, whole again after {wait} ({line['took_s']:.0f} s)"


def show(console: Console, faults: Sequence[dict[str, Any]]) -> None:
    """Print the table, then what is wrong with those that failed."""
    table = Table(title="Faults", title_justify="left")
    table.add_column("fault", overflow="fold")
    for column in ("struck", "written", "lost, stale,\ninvented", "twice", "whole\nagain"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in faults:
        wait = "never" if line["whole_again_s"] is None else f"{line['whole_again_s']:.1f} s"
        wrong = f"{line['lost']:,}  {line['stale']:,}  {line['invented']:,}"
        cells = ("yes" if line["struck"] else "NO", f"{line['written']:,}", wrong, f"{line['duplicates']:,}", wait)
        table.add_row(line["name"], *cells, style="" if line["passed"] else "red")
    console.print(table)
    for line in faults:
        if not line["passed"]:
            console.print(f"[red]{line['name']}[/red]  seeds {line['seeds']}", highlight=False)
            for text in [*line["errors"], *line["details"][:DETAILS_SHOWN]]:
                console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)
