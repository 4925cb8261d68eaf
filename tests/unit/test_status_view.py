"""`engine status` on a terminal and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.observe.health import health_of
from engine.observe.status_view import status_view
from tests.unit.test_health import FAILING, NOW_MS, child, route, status


def rendered(content: dict[str, Any], width: int = 200) -> str:
    whole = {"version": "1", "pid": 7, "started_at_ms": NOW_MS - 60_000, "nodes": [], **content}
    whole["children"] = [{"role": "invoker", "ring_bytes_waiting": 0, **one} for one in whole["children"]]
    screen = Console(width=width)
    with screen.capture() as said:
        screen.print(status_view(whole, health_of(content, NOW_MS), NOW_MS))
    return said.get()


def test_the_first_line_says_it() -> None:
    """All findings come first, with their remedies; then what stands behind them."""
    lines = rendered(status(routes=[FAILING], deletions_held=1)).splitlines()
    assert lines[0].startswith("not well: route carts has failed for 20 s")
    assert "→ check the function f" in lines[1]
    assert lines[2].startswith("not well: 1 deletion is held")
    assert rendered(status()).startswith("well: ")


def test_rates_and_lags_of_the_last_minute() -> None:
    """Rates are a second's, lags are percentiles by stage; a stage that nothing came to is left out."""
    lag = {"count": 9, "p50": 3, "p90": 8, "p99": 1_234, "p999": 2_000, "max": 2_000}
    minute = {
        "seconds": 60.0,
        "counts": {"events_read": 60_000, "records_delivered": 90, "invocations": 0, "invocations_failed": 0},
        "lag_ms": {"settled": lag, "fetched": {**lag, "max": None}},
    }
    shown = rendered(status(last_minute=minute))
    assert "over the last minute: 1,000 changes read/s, 1.5 records delivered/s, 0 invocations/s, 0 failed/s" in shown
    (delivered,) = [line.split() for line in shown.splitlines() if line.strip().startswith("delivered")]
    assert delivered[1:] == ["3", "ms", "8", "ms", "1,234", "ms", "2,000", "ms"]
    assert "invoked  " not in shown


def test_a_feed_that_lags_alone_is_seen() -> None:
    """Where two subscribers share a node there is a line for each, with what it hears; one alone is the node itself."""
    feeds = [
        {"shard": 0, "keys": "\\x00-m", "settled_age_ms": 900},
        {"shard": 1, "keys": "n-\\xff", "settled_age_ms": 34_000},
    ]
    node = {"id": "", "address": "a:1", "slots": "", "shards": [0, 1], "feeds": feeds, "settled_age_ms": 34_000}
    lines = [line.split() for line in rendered(status(nodes=[node])).splitlines()]
    assert ["keys", "that", "end", "in", "\\x00-m", "1", "0.9", "s", "ago"] in lines
    assert ["keys", "that", "end", "in", "n-\\xff", "2", "34", "s", "ago"] in lines
    assert "that end in" not in rendered(status(nodes=[node | {"feeds": feeds[:1], "id": "f00"}]))


def test_how_far_a_snapshot_is() -> None:
    """A snapshot says which routes it is of, how far it is, and how long it will take."""
    whole = [route(snapshot="under way")]
    scan = {"keys": 1_000, "scanned": 400, "left_s": 180}
    assert "snapshot of carts: 40 %, about 3 minutes left" in rendered(status(routes=whole, scan=scan))
    found = {"keys": 0, "scanned": 0, "left_s": None}
    assert "snapshot of carts: all keys found, being delivered" in rendered(status(routes=whole, scan=found))


def test_a_route_shows_what_waits_and_why() -> None:
    """A row has state, backlog and age of the oldest key; the last error stands below, also once it is over."""
    over = route(name="orders", error="timeout: slow", error_ms=NOW_MS - 120_000)
    shown = rendered(status(routes=[FAILING, over]))
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("carts ")]
    assert "failing for 20 s" in row and "1,234" in row and "21 s" in row
    assert "last error of carts, 0.1 s ago: function_error: boom" in shown
    assert "last error of orders, 2 min ago: timeout: slow" in shown


def test_processes_are_all_there() -> None:
    shown = rendered(status(children=[child(), child(name="subscriber 1/1", role="subscriber", restarts=3)]))
    assert "invoker 1/1" in shown and "subscriber 1/1" in shown


@pytest.mark.parametrize("command", [["check"]])
def test_a_pipe_is_not_wrapped(command: list[str], tmp_path: Path) -> None:
    """What reads a pipe gets a finding in one line, however long, whatever COLUMNS says."""
    name = "n" * 150
    (tmp_path / "engine.toml").write_text(
        '[redis]\nurl = "redis://127.0.0.1:1/0"\n[aws]\nregion = "us-east-1"\n'
        f'[[routes]]\nname = "{name}"\nfunction = "f"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINE_", "AWS_"))}
    environment |= {"COLUMNS": "40", "AWS_EC2_METADATA_DISABLED": "true", "XDG_STATE_HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "engine", *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert any(line.startswith("ok") and name in line for line in done.stdout.splitlines())
