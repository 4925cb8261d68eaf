"""Whether an engine is ready: every process runs, every feed listens, and its notifications are proved.  (pure)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_ready(status: Mapping[str, Any]) -> bool:
    """Tell whether the engine with this status captures and delivers all that it should.

    A feed is proved by a look at the server's flags, or by an event that was provoked, since it was connected.
    """
    if status["state"] != "ready" or any(child["state"] != "ready" for child in status["children"]):
        return False
    totals = status["totals"]
    return bool(totals["feeds_proved"] == totals["feeds"])
