"""What a running engine looks like on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.model import THE_BEGINNING_MS
from engine.text import shown_all

_TOTALS = {
    "events_read": "events read",
    "events_coalesced": "coalesced into a waiting key",
    "gaps": "gaps",
    "events_dropped": "events dropped (each within a gap)",
    "repairs": "scans done to repair gaps",
    "keys_repaired": "keys marked dirty by them",
    "keys_backlog": "keys on disk now (backlog)",
    "keys_set_aside": "of them set aside: they keep failing, see keys_set_aside in the log",
    "reconnects": "reconnects",
    "records_delivered": "records delivered",
    "invocations": "invocations",
    "invocations_failed": "invocations failed",
    "invocations_throttled": "of them throttled",
    "invocations_lost": "of them without an answer",
    "records_retried": "records retried",
    "dead_letters": "dead letters",
    "keys_waiting": "keys waiting now",
    "keys_in_flight": "keys in flight now",
    "lag_ms_max": "highest delivery lag (ms)",
}

_KEY_CHARS_MAX = 60
_ID_CHARS = 8
"""So much of a node's id tells it apart for people."""
_AUDITED = {
    "missing": "missing in the destination",
    "stale": "older in the destination",
    "different": "different in the destination",
    "extra": "in the destination alone",
    "unstorable": "too large for the destination",
    "unreadable": "cannot be read",
}
_AUDIT_COUNTS = {
    "compared": "keys compared",
    "items": "items looked at",
    "changing": "changed meanwhile: not compared",
    "skipped": "of a type that the route does not hear of",
    "foreign": "items of other keys",
    "repaired": "marked for a repair",
    "unheard": "marks that nobody heard",
    "held": "gone, and not deleted: past the limit (--accept-deletions)",
}


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """Return the status file's content for people."""
    status = shown_all(status)
    up_s = (status["updated_at_ms"] - status["started_at_ms"]) // 1_000
    head = Text(f"engine {status['version']}, process {status['pid']}: ")
    head.append(status["state"], style="green" if status["state"] == "ready" else "yellow")
    head.append(f", up {up_s:,} s")
    if status.get("slice", "0/1") != "0/1":
        head.append(f", slice {status['slice']}")
    settled_ms = status.get("settled_until_ms", 0)
    if settled_ms > THE_BEGINNING_MS:
        behind_s = max(0, status["updated_at_ms"] - settled_ms) / 1_000
        head.append(f"\nall that changed until {behind_s:,.1f} s before that is settled")
    if scans := _scans(status["children"]):
        head.append(f"\nscanning for what was missed: {scans}", style="yellow")
    if status.get("deletions_held"):
        head.append(f"\n{status['deletions_held']:,} deletions are held: see 'engine deletions'", style="red")
    nodes = [_nodes(status["nodes"])] if any(node["id"] for node in status.get("nodes", ())) else []
    return Group(head, _children(status["children"]), *nodes, _routes(status["routes"]), _totals(status["totals"]))


def _scans(children: Sequence[Mapping[str, Any]]) -> str:
    """Return how far the scans are, "" where there are none."""
    parts = []
    for child in children:
        scanned, keys = (child["counters"].get(name, 0) for name in ("keys_scanned", "keys_to_scan"))
        if keys:
            parts.append(f"{child['name']} {min(100, 100 * scanned // keys)} % of {keys:,} keys")
    return ", ".join(parts)


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


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> Table:
    """Show what there is of a cluster: who listens to which node, and how far everything of it is settled."""
    table = _table("node", "address", "slots", "shards", "settled until")
    for node in nodes:
        age_ms = node["settled_age_ms"]
        owed = f", {node['slots_owed']:,} slots to scan" if node.get("slots_owed") else ""
        table.add_row(
            node["id"][:_ID_CHARS],
            Text(node["address"] + (f" (read at {node['reads_at']})" if node.get("reads_at") else "")),
            str(node["slots"]).removeprefix("slots "),
            ", ".join(str(shard + 1) for shard in node["shards"]),
            ("not known yet" if age_ms is None else f"{age_ms / 1_000:,.1f} s ago") + owed,
        )
    return table


def _routes(routes: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("route", "function", "keys", "events", "whole keyspace")
    for route in routes:
        lists = (" ".join(route["keys"]), " ".join(route["events"]))
        cells = (route["name"], route["function"], *lists, route.get("snapshot", ""))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _totals(totals: Mapping[str, int]) -> Table:
    table = _table("since the start", "")
    table.columns[1].justify = "right"
    for name, label in _TOTALS.items():
        table.add_row(label, f"{totals.get(name, 0):,}")
    return table


def deletions_view(routes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return which deletions of which routes are held, or were refused, for people."""
    if not routes:
        return Text("no deletions are held, and none were refused")
    table = _table("route", "found gone", "of", "since", "choice", "refused", "why")
    for route in shown_all(routes):
        since = datetime.fromtimestamp(route["since_ms"] / 1_000).isoformat(" ", "seconds") if route["gone"] else ""
        counts = (f"{route[name]:,}" if route[name] else "" for name in ("gone", "of", "kept"))
        gone, of, kept = counts
        choice = route["choice"] or ("undecided" if route["gone"] else "")
        table.add_row(*(Text(cell) for cell in (route["route"], gone, of, since, choice, kept, route["why"])))
    return table


def audit_view(audit: Mapping[str, Any]) -> RenderableType:
    """Return what `engine audit` found (its JSON) for people."""
    return Group(*(_audited_route(route) for route in shown_all(audit["routes"])))


def _audited_route(route: Mapping[str, Any]) -> RenderableType:
    head = Text(f"{route['route']} and {route['destination']}: ")
    is_equal = route["differences"] == 0
    verdict = "equal" if is_equal else f"{route['differences']:,} keys differ"
    head.append(verdict, style="green" if is_equal else "red")
    table = _table("found", "keys", "such as")
    table.columns[1].justify = "right"
    for kind, label in _AUDITED.items():
        finding = route[kind]
        if finding["count"]:
            note = " (kept: the route does not hear of every way to go)" if kind == "extra" else ""
            label += "" if route["is_extra_wrong"] else note
            table.add_row(label, f"{finding['count']:,}", Text(_some_keys(finding["examples"])))
    for name, label in _AUDIT_COUNTS.items():
        if route[name] or name == "compared":
            table.add_row(label, f"{route[name]:,}", "")
    return Group(head, table)


def _some_keys(examples: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(_some_key(example) for example in examples[:5])


def _some_key(example: Mapping[str, str]) -> str:
    """Return a key in one short line."""
    text = f"{example['id_encoding']}:{example['id']}" if "id_encoding" in example else example["id"]
    text = text or "''"
    return text if len(text) <= _KEY_CHARS_MAX else text[:_KEY_CHARS_MAX] + "…"


def findings_view(findings: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Return what `engine check` found, as (verdict, place, message, hint), for people."""
    styles = {"ok": "green", "note": "yellow", "error": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for verdict, place, message, hint in shown_all(findings):
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
