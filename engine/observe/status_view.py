"""The state of a running engine, as a terminal shows it: one line of summary, then the details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from engine.model import THE_BEGINNING_MS
from engine.observe.console import table
from engine.observe.health import Condition, Health, in_words, seconds, snapshots_under_way
from engine.routing.databases import in_words as numbers_in_words
from engine.text import counted, shown, shown_all

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
    "skipped_unchanged": "not delivered: equal to what was accepted last",
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

_RATES = {
    "events_read": "changes read",
    "records_delivered": "records delivered",
    "invocations": "invocations",
    "invocations_failed": "failed",
}
_STAGES = {"captured": "captured", "fetched": "read", "invoked": "invoked", "settled": "delivered"}
"""Stage of a change → what has happened to it by then."""
_PERCENTILES = ("p50", "p90", "p99", "max")
_STYLES = {Condition.WELL: "green", Condition.RECOVERING: "yellow", Condition.TROUBLE: "red"}
_ID_CHARS = 8
"""This much of a node's id tells it apart for people."""


def status_view(status: Mapping[str, Any], health: Health, now_ms: int) -> RenderableType:
    """Return the status file's content for people, and what it means."""
    status = shown_all(status)
    parts: list[RenderableType] = [_head(status, health)]
    if rates := _rates(status):
        parts.append(rates)
    if lags := _lags(status):
        parts.append(lags)
    if scan := _scan(status):
        parts.append(Text(scan, style="yellow"))
    parts += [_routes(status["routes"], now_ms), _children(status["children"])]
    if any(node["id"] or len(node.get("feeds", ())) > 1 for node in status.get("nodes", ())):
        parts.append(_nodes(status["nodes"]))
    return Group(*parts, _totals(status["totals"]))


def line_view(health: Health, now_ms: int) -> str:
    """Return the one line, with its time: for a log, or a watch without a terminal."""
    moment = datetime.fromtimestamp(now_ms / 1_000).isoformat(" ", "seconds")
    return f"{moment} {shown(health.line)}"


def _head(status: Mapping[str, Any], health: Health) -> Text:
    first, *others = health.findings or (None,)
    head = Text(health.line if first is None else f"{health.condition.value}: {first.what}")
    head.stylize(f"bold {_STYLES[health.condition]}")
    for one in [] if first is None else [first, *others]:
        if one is not first:
            head.append(f"\n{one.condition.value}: {one.what}", style=_STYLES[one.condition])
        if one.hint:
            head.append(f"\n  → {one.hint}", style="bold")
    up = seconds(status["updated_at_ms"] - status["started_at_ms"])
    head.append(f"\nengine {status['version']}, process {status['pid']}: {status['state']}, up {up}")
    if status.get("slice", "0/1") != "0/1":
        head.append(f", slice {status['slice']}")
    if len(databases := status.get("databases", ())) > 1:
        head.append(f", databases {numbers_in_words(databases)}")
    settled_ms = status.get("settled_until_ms", 0)
    if settled_ms > THE_BEGINNING_MS:
        behind = seconds(max(0, status["updated_at_ms"] - settled_ms))
        head.append(f"\nsettled (delivered, or safe on disk): all that changed until {behind} before that")
    return head


def _rates(status: Mapping[str, Any]) -> Text | None:
    minute = status.get("last_minute") or {}
    span_s = minute.get("seconds", 0)
    if span_s < 1:
        return None
    counts = minute["counts"]
    rates = ", ".join(f"{_rate(counts.get(name, 0) / span_s)} {label}/s" for name, label in _RATES.items())
    over = "the last minute" if span_s >= 55 else f"the last {counted(round(span_s), 'second')}"
    return Text(f"over {over}: {rates}")


def _lags(status: Mapping[str, Any]) -> RenderableType | None:
    """Show how late changes of the last minute came to each stage; None if there were none."""
    lags = (status.get("last_minute") or {}).get("lag_ms") or {}
    if not lags:
        return None
    rows = table("lag until", *_PERCENTILES)
    for column in rows.columns[1:]:
        column.justify = "right"
    for stage, label in _STAGES.items():
        found = lags.get(stage)
        if found:
            rows.add_row(label, *(_milliseconds(found.get(name)) for name in _PERCENTILES))
    return rows


def _milliseconds(lag_ms: int | None) -> str:
    return "–" if lag_ms is None else f"{lag_ms:,} ms"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"


def _scan(status: Mapping[str, Any]) -> str:
    """Return how far a snapshot or a repair is, "" if there is none."""
    scan = status.get("scan") or {}
    routes = snapshots_under_way(status["routes"])
    if routes:
        names = ", ".join(routes)
        return f"snapshot of {names}: " + (in_words(scan) if scan.get("keys") else "all keys found, being delivered")
    return f"scanning for what was missed: {in_words(scan)}" if scan.get("keys") else ""


def _routes(routes: Sequence[Mapping[str, Any]], now_ms: int) -> RenderableType:
    rows = table("route", "function", "state", "waiting", "on disk", "oldest waits", "keys", "events", "whole keyspace")
    for place in (3, 4, 5):
        rows.columns[place].justify = "right"
    for route in routes:
        oldest_ms = route.get("oldest_ms", 0)
        state = _state_of(route, now_ms)
        waiting = route.get("keys_waiting", 0) + route.get("keys_in_flight", 0)
        cells: list[Text] = [Text(route["name"]), Text(route["function"]), state, Text(f"{waiting:,}")]
        cells.append(Text(f"{route.get('keys_backlog', 0):,}"))
        cells.append(Text(seconds(max(0, now_ms - oldest_ms)) if oldest_ms else "–"))
        of = f" (databases {numbers_in_words(route['databases'])})" if route.get("databases") else ""
        cells += [Text(" ".join(route["keys"]) + of), Text(" ".join(route["events"])), Text(route.get("snapshot", ""))]
        rows.add_row(*cells)
    errors = [_error_of(route, now_ms) for route in routes if route.get("error")]
    return Group(rows, *errors)


def _state_of(route: Mapping[str, Any], now_ms: int) -> Text:
    if since_ms := route.get("failing_since_ms", 0):
        return Text(f"failing for {seconds(max(0, now_ms - since_ms))}", style="red")
    if route.get("keys_backlog", 0) > route.get("keys_set_aside", 0):
        return Text("working off the backlog", style="yellow")
    busy = route.get("keys_waiting", 0) or route.get("keys_in_flight", 0)
    return Text("delivering" if busy else "idle", style="green")


def _error_of(route: Mapping[str, Any], now_ms: int) -> Text:
    ago = seconds(max(0, now_ms - route["error_ms"]))
    line = Text(f"last error of {route['name']}, {ago} ago: ")
    return line.append(route["error"], style="red" if route.get("failing_since_ms") else "")


def _children(children: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows = table("process", "pid", "state", "restarts", "last beat", "in its rings")
    for child in children:
        age_ms = child["heartbeat_age_ms"]
        rows.add_row(
            child["name"],
            str(child["pid"] or "–"),
            child["state"],
            str(child["restarts"]),
            "–" if age_ms is None else f"{age_ms:,} ms",
            f"{child['ring_bytes_waiting']:,} B" if child["role"] == "invoker" else "",
        )
    return rows


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Show which shards listen to which node, and how far everything of it is settled; also by feed, where a node has
    several.
    """
    rows = table("node", "address", "slots", "shards", "settled until")
    for node in nodes:
        owed = f", {counted(node['slots_owed'], 'slot')} to scan" if node.get("slots_owed") else ""
        rows.add_row(
            node["id"][:_ID_CHARS],
            Text(node["address"] + (f" (read at {node['reads_at']})" if node.get("reads_at") else "")),
            str(node["slots"]).removeprefix("slots "),
            ", ".join(str(shard + 1) for shard in node["shards"]),
            _until(node["settled_age_ms"]) + owed,
        )
        feeds = node.get("feeds", ())
        for feed in feeds if len(feeds) > 1 else ():
            keys = Text(f"  keys that end in {feed['keys']}")
            rows.add_row("", keys, "", str(feed["shard"] + 1), _until(feed["settled_age_ms"]))
    return rows


def _until(age_ms: int | None) -> str:
    return "not known yet" if age_ms is None else f"{seconds(age_ms)} ago"


def _totals(totals: Mapping[str, int]) -> RenderableType:
    rows = table("since the start", "")
    rows.columns[1].justify = "right"
    for name, label in _TOTALS.items():
        rows.add_row(label, f"{totals.get(name, 0):,}")
    return rows
