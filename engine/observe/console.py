"""What commands found, as tables for a terminal: an audit, held deletions, a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.text import counted, shown_all

_KEY_CHARS_MAX = 60
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
    "skipped": "of a type that the route does not listen to",
    "foreign": "items of other keys",
    "repaired": "marked for a repair",
    "unheard": "marks that no engine heard",
    "held": "gone, and not deleted: past the limit (--accept-deletions)",
    "refused": "gone, and kept: their deletion was refused",
}


def deletions_view(routes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return which deletions of which routes are held, or were refused, for people."""
    if not routes:
        return Text("no deletions are held, and none were refused")
    rows = table("route", "found gone", "of", "since", "choice", "refused", "why")
    for route in shown_all(routes):
        since = datetime.fromtimestamp(route["since_ms"] / 1_000).isoformat(" ", "seconds") if route["gone"] else ""
        counts = (f"{route[name]:,}" if route[name] else "" for name in ("gone", "of", "kept"))
        gone, of, kept = counts
        choice = route["choice"] or ("undecided" if route["gone"] else "")
        rows.add_row(*(Text(cell) for cell in (route["route"], gone, of, since, choice, kept, route["why"])))
    return rows


def audit_view(audit: Mapping[str, Any]) -> RenderableType:
    """Return what `engine audit` found (its JSON) for people."""
    return Group(*(_audited_route(route) for route in shown_all(audit["routes"])))


def _audited_route(route: Mapping[str, Any]) -> RenderableType:
    head = Text(f"{route['route']} and {route['destination']}: ")
    is_equal = route["differences"] == 0
    differences = route["differences"]
    verdict = "equal" if is_equal else f"{counted(differences, 'key')} {'differs' if differences == 1 else 'differ'}"
    head.append(verdict, style="green" if is_equal else "red")
    rows = table("found", "keys", "such as")
    rows.columns[1].justify = "right"
    for kind, label in _AUDITED.items():
        finding = route[kind]
        if finding["count"]:
            note = " (kept: the route does not listen to every kind of removal)" if kind == "extra" else ""
            label += "" if route["is_extra_wrong"] else note
            rows.add_row(label, f"{finding['count']:,}", Text(_some_keys(finding["examples"])))
    for name, label in _AUDIT_COUNTS.items():
        if route.get(name) or name == "compared":
            rows.add_row(label, f"{route[name]:,}", "")
    return Group(head, rows)


def _some_keys(examples: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_some_key(example) for example in examples[:5])


def _some_key(example: Mapping[str, Any]) -> str:
    """Return a key in one short line."""
    text = f"{example['id_encoding']}:{example['id']}" if "id_encoding" in example else example["id"]
    text = text or "''"
    if "db" in example:
        text = f"{text} in database {example['db']}"
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


def table(*columns: str) -> Table:
    """Return an empty table with these columns."""
    made = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        made.add_column(column)
    return made


def formats_view(files: Sequence[Mapping[str, Any]], folder: str) -> RenderableType:
    """Return the state files, and whether this version reads them, for people."""
    if not files:
        return Text(f"there is no state in {folder}: the next start is the first one")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("file", "format", "newest known", ""):
        table.add_column(name, justify="right" if name in {"format", "newest known"} else "left", overflow="fold")
    words = {
        "current": "is read",
        "older": "is read, and converted at the next write",
        "newer": "was written by a newer version: a start is refused",
        "unknown": "is damaged, or empty",
    }
    for one in shown_all(files):
        table.add_row(one["path"], str(one["format"] or "–"), str(one["newest"]), words[one["verdict"]])
    return table
