"""What the page shows of a status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.console.source import Source
from engine.observe.health import health_of
from engine.observe.ready import is_ready
from engine.text import shown_all

KEPT = (
    *("version", "slice", "state", "pid", "started_at_ms", "updated_at_ms", "deletions_held"),
    *("routes", "nodes", "totals", "last_minute", "last_hour", "minutes", "timeline"),
)


def encoded_view(source: Source, now_ms: int) -> bytes:
    """Return the view of the newest status as JSON, on one line."""
    status = source.status()
    if status is None:
        return msgspec.json.encode({"at_ms": now_ms, "running": False})
    usages = {usage.process: usage for usage in source.usages(status)}
    return msgspec.json.encode(view_of(status, now_ms) | {"usages": usages})


def view_of(status: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """Return what the page shows, by the page's own words; ``now_ms`` is Unix time."""
    status = shown_all(status)
    children = [
        {key: child[key] for key in ("name", "pid", "state", "restarts", "heartbeat_age_ms", "ring_bytes_waiting")}
        for child in status["children"]
    ]
    health = health_of(status, now_ms)
    return {
        "at_ms": now_ms,
        "running": True,
        "ready": is_ready(status),
        "health": health.as_json(),
        "children": children,
        **{key: status[key] for key in KEPT if key in status},
    }
