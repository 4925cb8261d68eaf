"""What the page shows of a status: what is new each second, and the history, which changes seldom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from engine.console.source import Usage
from engine.observe.health import Health, health_of, lag_ms_of, nobody
from engine.observe.ready import is_ready
from engine.text import shown_all

LIVE = (
    *("version", "slice", "state", "pid", "started_at_ms", "updated_at_ms", "deletions_held"),
    *("routes", "nodes", "totals", "last_minute", "last_hour"),
)
OF_CHILD = ("name", "role", "pid", "state", "restarts", "heartbeat_age_ms", "ring_bytes_waiting")
HISTORY = ("minutes", "timeline")


def live_view(status: Mapping[str, Any] | None, usages: Iterable[Usage], now_ms: int) -> dict[str, Any]:
    """Return what is shown now (Unix time), by the page's own words; ``status`` is None if no engine runs."""
    if status is None:
        return {"at_ms": now_ms, "running": False, "health": _health(nobody("no engine runs here"))}
    status = shown_all({key: status[key] for key in (*LIVE, "children", "scan", "settled_until_ms") if key in status})
    return {
        "at_ms": now_ms,
        "running": True,
        "ready": is_ready(status),
        "health": _health(health_of(status, now_ms)),
        "lag_ms": lag_ms_of(status, now_ms),
        "children": [{key: child[key] for key in OF_CHILD} for child in status["children"]],
        "usages": {usage.process: usage._asdict() for usage in usages},
        **{key: status[key] for key in LIVE if key in status},
    }


def history_of(status: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a status says of the last hour, as it says it: to see whether that has changed."""
    return {key: (status or {}).get(key, ()) for key in HISTORY}


def history_view(history: Mapping[str, Any]) -> Any:
    """Return what is shown of it."""
    return shown_all(history)


def _health(health: Health) -> dict[str, Any]:
    findings = [asdict(one) for one in health.findings]
    return {"condition": health.condition.value, "line": health.line, "findings": findings}


def encoded(view: Mapping[str, Any]) -> bytes:
    """Return a view as JSON, on one line."""
    return msgspec.json.encode(view)
