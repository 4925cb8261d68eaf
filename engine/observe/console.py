"""What a running engine looks like on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_TOTALS = {
    "events_read": "events read",
    "events_coalesced": "coalesced into a waiting key",
    "gaps": "gaps",
    "events_dropped": "events dropped (each within a gap)",
    "repairs": "scans done to repair gaps",
    "keys_repaired": "keys marked dirty by them",
    "reconnects": "reconnects",
    "records_delivered": "records delivered",
    "invocations": "invocations",
    "invocations_failed": "invocations failed",
    "records_retried": "records retried",
    "dead_letters": "dead letters",
    "keys_waiting": "keys waiting now",
    "keys_in_flight": "keys in flight now",
    "lag_ms_max": "highest delivery lag (ms)",
}


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """Return the status file's content for people."""
    up_s = (status["updated_at_ms"] - status["started_at_ms"]) // 1_000
    head = Text(f"engine {status['version']}, process {status['pid']}: ")
    head.append(status["state"], style="green" if status["state"] == "ready" else "yellow")
    head.append(f", up {up_s:,} s")
    return Group(head, _children(status["children"]), _routes(status["routes"]), _totals(status["totals"]))


def _children(children: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("process", "pid", "state", "restarts", "last beat", "in its rings")
    for child in children:
        age_ms = child["heartbeat_age_ms"]
        table.add_row(
            child["name"],
            str(child["pid"] or "–"),
            child["state"],
            str(child["restarts"]),
            "–" if age_ms is None else f"{age_ms:,} ms",
            f"{child['ring_bytes_waiting']:,} B" if child["role"] == "invoker" else "",
        )
    return table


def _routes(routes: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("route", "function", "keys", "events")
    for route in routes:
        cells = (route["name"], route["function"], " ".join(route["keys"]), " ".join(route["events"]))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _totals(totals: Mapping[str, int]) -> Table:
    table = _table("since the start", "")
    table.columns[1].justify = "right"
    for name, label in _TOTALS.items():
        table.add_row(label, f"{totals.get(name, 0):,}")
    return table


def findings_view(findings: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Return what `engine check` found, as (verdict, place, message, hint), for people."""
    styles = {"ok": "green", "note": "yellow", "error": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for verdict, place, message, hint in findings:
        text = Text(message)
        if hint:
            text.append(f"\n→ {hint}", style="bold")
        table.add_row(Text(verdict, style=styles[verdict]), Text(place), text)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
