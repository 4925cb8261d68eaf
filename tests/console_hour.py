"""An hour in the life of an engine, made up: for the tests and pictures of the console's page."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from tests.console_rig import status_of

HOSTILE = "<img src=x onerror=\"document.body.dataset.hacked='1'\">\u202e</td><script>document.title='hacked'</script>"
"""A name that does something where it is taken for markup, and turns the direction of writing where it is shown."""


def minutes(now_ms: int) -> list[dict[str, Any]]:
    """Return 58 minutes with an outage of five in the middle, and a quiet one."""
    found = []
    for ago in range(57, -1, -1):
        is_out, is_quiet = 28 <= ago < 33, ago == 12
        per_s = 0 if is_quiet else 900 if is_out else 21_000 + 4_000 * math.sin(ago / 5)
        p50 = 4 if not is_out else 30_000
        lags = {"count": 1, "p50": p50, "p90": 3 * p50, "p99": 9 * p50 + ago % 7, "p999": 12 * p50, "max": 20 * p50}
        found.append(
            {
                "at_ms": now_ms - ago * 60_000,
                "seconds": 60.0,
                "counts": {
                    "events_read": int(per_s * 61), "records_delivered": int(per_s * 60), "invocations": 3_000,
                    "invocations_failed": 90 * is_out, "gaps": int(ago == 40), "keys_repaired": 1_200 * (ago == 39),
                },
                "lag_ms": {} if is_quiet else {"settled": lags},
            }
        )  # fmt: skip
    return found


def hour(**changes: Any) -> dict[str, Any]:
    """Return the status of an engine whose one route fails, under hostile names."""
    now_ms = time.time_ns() // 1_000_000
    status = status_of(os.getpid())
    lags = {name: {"count": 9, "p50": base, "p90": 2 * base, "p99": 5 * base, "p999": 8 * base, "max": 20 * base}
            for name, base in (("captured", 1), ("fetched", 2), ("invoked", 3), ("settled", 6))}  # fmt: skip
    counts = dict.fromkeys(status["totals"], 0)
    counts |= {"events_read": 1_482_000, "records_delivered": 1_475_200, "invocations": 3_010, "invocations_failed": 41}
    route = status["routes"][0]
    status["routes"] = [
        {**route, "name": HOSTILE, "failing_since_ms": now_ms - 34_000, "error": f"FunctionError: {HOSTILE}",
         "error_ms": now_ms - 300, "keys_backlog": 12_408, "keys_waiting": 512, "oldest_ms": now_ms - 35_000},
        {**route, "name": "people", "slot": 1, "function": "arn:aws:lambda:eu-west-1:123456789012:function:people"},
    ]  # fmt: skip
    return status | {
        "started_at_ms": now_ms - 3 * 86_400_000,
        "last_minute": {"seconds": 60.0, "counts": counts, "lag_ms": lags},
        "last_hour": {"seconds": 3_600.0, "counts": counts, "lag_ms": lags},
        "minutes": minutes(now_ms),
        "timeline": [
            {"at_ms": now_ms - 40 * 60_000, "what": "gap", "process": "subscriber 1/2", "reason": "disconnected",
             "count": 1},
            {"at_ms": now_ms - 40 * 60_000, "what": "repair", "process": "subscriber 1/2",
             "until_ms": now_ms - 36 * 60_000, "keys_looked_at": 1_204_000, "keys_repaired": 1_200},
            {"at_ms": now_ms - 18 * 60_000, "what": "restart", "process": "invoker 1/1", "count": 1},
            {"at_ms": now_ms - 60_000, "what": "gap", "process": "subscriber 2/2", "reason": "dirty_set_full",
             "count": 3},
            {"at_ms": now_ms - 60_000, "what": "repair", "process": "subscriber 2/2", "until_ms": 0,
             "keys_looked_at": 40_000, "keys_repaired": 9_000},
        ],
        **changes,
    }  # fmt: skip
