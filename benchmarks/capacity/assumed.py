"""The settings that a plan assumes, as lines of a settings file.  (pure)"""

from __future__ import annotations

import math

from benchmarks.capacity.hosts import DIRTY_KEYS_MAX, LANE_KEYS_MAX, RING_BYTES
from benchmarks.capacity.plan import BATCH_SIZE, PAYLOAD_BYTES_MAX, Deployment


def parallelization_factor(plan: Deployment) -> int:
    """Return how many invocations at once each invoker needs for the plan's concurrency."""
    return max(1, math.ceil(plan.concurrency / plan.hosts / plan.invokers))


def settings_text(plan: Deployment) -> str:
    """Return the settings, ready to paste; those of the route belong into its own table."""
    slices = [f'slice = "ordinal/{plan.hosts}"  # or "0/{plan.hosts}", "1/{plan.hosts}", … on each host']
    lines = [
        "[capture]",
        f"shards = {plan.shards}",
        *(slices if plan.hosts > 1 else []),
        f"dirty_keys_max = {_number(DIRTY_KEYS_MAX)}",
        "",
        "[ring]",
        f"ring_bytes = {_number(RING_BYTES)}",
        "",
        "[delivery]",
        f"invokers = {plan.invokers}",
        f"payload_bytes_max = {_number(PAYLOAD_BYTES_MAX)}",
        f"waiting_keys_max = {_number(LANE_KEYS_MAX)}",
        "",
        "[[routes]]  # these options, beside the route's name, function, keys and events",
        f"batch_size = {BATCH_SIZE}",
        f"parallelization_factor = {parallelization_factor(plan)}",
        f"maximum_batching_window_in_seconds = {float(plan.wish.window_s)}",
        "coalesce = true",
    ]
    return "\n".join(lines)


def _number(value: int) -> str:
    return f"{value:_}"
