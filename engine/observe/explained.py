"""What the routes do with a key, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from engine.text import shown, shown_json


def explained_view(key: str, event: str, notes: Sequence[str], routes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return what each route does with a key, its notes, and an outline of each payload."""
    name = shown(key) or "''"
    lines = [Text(f"{name} after {shown(event)}" if event else name, style="bold")]
    lines += [Text(shown(note), style="yellow") for note in notes]
    for route in routes:
        line = Text("  ")
        line.append("→ " if route["taken"] else "✗ ", style="green" if route["taken"] else "red")
        line.append(shown(route["route"]), style="bold")
        if route["taken"]:
            line.append(f" to {shown(route['function'])}, by {shown(route['pattern'])}: {shown(route['why'])}")
        else:
            line.append(f": {shown(route['why'])}")
        lines.append(line)
    taken = [route for route in routes if route["payload"] is not None]
    if not any(route["taken"] for route in routes):
        lines.append(Text("no route takes it", style="red"))
    for payload, names in _alike(taken):
        text = msgspec.json.format(msgspec.json.encode(payload), indent=2).decode()
        lines.append(
            Text(
                f"\n{', '.join(names)} is sent, with its value:"
                if len(names) == 1
                else f"\n{', '.join(names)} are sent, with its value:"
            )
        )
        lines.append(Text(shown_json(text)))
    return Group(*lines)


def _alike(routes: Sequence[Mapping[str, Any]]) -> list[tuple[Any, list[str]]]:
    """Return each payload once, with the functions that it is sent to."""
    found: list[tuple[Any, list[str]]] = []
    for route in routes:
        name = shown(route["function"])
        names = next((names for payload, names in found if payload == route["payload"]), None)
        if names is None:
            found.append((route["payload"], [name]))
        elif name not in names:
            names.append(name)
    return found
