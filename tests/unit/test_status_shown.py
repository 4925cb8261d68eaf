"""What docs/operate.md shows of `engine status` is what it shows."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from engine.observe.health import health_of
from engine.observe.status_view import status_view

GUIDE = Path(__file__).parents[2] / "docs" / "operate.md"
NOW_MS = 1_800_000_000_000
ERROR = "function_error: ConnectionError: store is closed"


def lag(*of: int) -> dict[str, int]:
    return dict(zip(("p50", "p90", "p99", "max"), of, strict=True))


STATUS = {
    "pid": 28_707, "version": "0.1.0", "state": "ready", "slice": "0/1", "children": [], "totals": {},
    "started_at_ms": NOW_MS - 24_000, "updated_at_ms": NOW_MS, "settled_until_ms": NOW_MS - 23_000,
    "last_minute": {
        "seconds": 24.0,
        "counts": {"events_read": 5_976, "records_delivered": 2_976, "invocations": 190, "invocations_failed": 55},
        "lag_ms": {
            "captured": lag(6, 7, 7, 7), "fetched": lag(11, 207, 215, 255), "invoked": lag(12, 207, 215, 255),
            "settled": lag(15, 199, 511, 543),
        },
    },
    "routes": [
        {"name": "carts", "function": "carts", "keys": ["cart:*"], "events": ["changes"], "snapshot": "none"},
        {
            "name": "orders", "function": "orders", "keys": ["order:*"], "events": ["changes"], "snapshot": "none",
            "failing_since_ms": NOW_MS - 22_000, "error": ERROR, "error_ms": NOW_MS - 1_400, "keys_waiting": 700,
            "oldest_ms": NOW_MS - 22_000,
        },
    ],
}  # fmt: skip
"""One of two functions is down."""


def test_the_guide_shows_what_status_shows() -> None:
    """The picture in the guide is the view of such a status, up to the processes and counters that follow."""
    made = io.StringIO()
    Console(file=made, width=200).print(status_view(STATUS, health_of(STATUS, NOW_MS), NOW_MS))
    lines = [line.rstrip() for line in made.getvalue().splitlines()]
    last = next(number for number, line in enumerate(lines) if line.startswith("last error of"))
    shown = re.sub(r"\n{2,}", "\n\n", "\n".join(lines[: last + 1]))
    (picture,) = [one for one in re.findall(r"```text\n(.*?)\n```", GUIDE.read_text(), re.DOTALL) if "settled" in one]
    assert shown == picture
