"""What the scan source takes: the pace that an age of changes asks for, and what that costs.  (pure)"""

from __future__ import annotations

import msgspec

SHARE = 0.8
"""Of the period, a pass is planned to take."""
SERVER_US, SUBSCRIBER_US, INVOKERS_US = 4.7, 9.3, 8.4
"""CPU a key of hashes of two fields, as ``make bench-scans`` has shown it: scanned and read."""
DIGEST_BYTES, FILTER_BYTES, NAME_BYTES = 24, 4, 32
"""A key: in memory of invokers for each route, in memory of subscribers, on disk."""
DAY_S = 86_400


class ScanPlan(msgspec.Struct, frozen=True):
    """Passes over so many keys. ``keys_per_s`` is what ``capture.repair_keys_per_s_max`` has to allow."""

    keys: float
    period_s: float
    keys_per_s: float
    server_share: float
    """Of the server's one thread, or of those of all nodes together."""
    subscriber_cores: float
    invoker_cores: float
    memory_mib: float
    disk_mib: float
    reads_a_day: float


def plan_scans(keys: float, period_s: float) -> ScanPlan:
    """Return what it takes to find each change of these keys within this time."""
    rate = keys / (SHARE * period_s)
    return ScanPlan(
        keys,
        period_s,
        rate,
        rate * SERVER_US / 1e6,
        rate * SUBSCRIBER_US / 1e6,
        rate * INVOKERS_US / 1e6,
        keys * (DIGEST_BYTES + FILTER_BYTES) / 2**20,
        keys * NAME_BYTES / 2**20,
        keys * DAY_S / period_s,
    )


def row_of(plan: ScanPlan) -> tuple[str, str, str]:
    """Return the plan as (part, what, note)."""
    return (
        "scan",
        f"{plan.keys_per_s:,.0f} keys/s",
        f"repair_keys_per_s_max at least; Redis {plan.server_share:.0%} of its thread, subscribers "
        f"{plan.subscriber_cores:.1f} and invokers {plan.invoker_cores:.1f} cores, {plan.memory_mib:,.0f} MiB "
        f"of memory, {plan.disk_mib:,.0f} MiB of disk, {plan.reads_a_day / 1e6:,.0f} million reads a day",
    )
