"""From utilization to the lag's percentile.  (pure)

A stage is a station with n servers that take work in as it comes. The wait of one that has to wait is taken for
exponential, as in M/M/n; its chance is Erlang's C. Batches help where work waits, which is not counted; nor are bursts.
"""

from __future__ import annotations

import math


def erlang_c(servers: int, load: float) -> float:
    """Return the chance that one has to wait; ``load`` is arrivals × service time, less than ``servers``."""
    assert servers >= 1 and 0 <= load < servers
    # Erlang's B by recursion, which does not overflow.
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def wait_ms(servers: int, rate_per_s: float, service_ms: float, percentile: float) -> float:
    """Return the percentile (0 to 100) of the wait before service; infinite where the station can't keep up."""
    load = rate_per_s * service_ms / 1_000
    if load >= servers:
        return math.inf
    chance = erlang_c(servers, load)
    tail = 1 - percentile / 100
    if chance <= tail or not load:
        return 0.0
    return service_ms / (servers - load) * math.log(chance / tail)


def distinct_share(rate_per_s: float, keys: float, window_s: float, exponent: float = 0.0) -> float:
    """Return how many distinct keys are among the changes of a window, as a part of the changes; at most 1.

    Changes are Poisson; the key of rank r is changed as often as 1/r**``exponent`` (0: uniform).
    """
    changes = rate_per_s * window_s
    if changes <= 0 or keys < 1:
        return 1.0
    if not exponent:
        return min(1.0, keys * -math.expm1(-changes / keys) / changes)
    # The first ranks one by one, the rest by an integral over their logarithm.
    single = min(200, int(keys))
    ranks, widths = [float(rank) for rank in range(1, single + 1)], [1.0] * single
    if keys > single:
        steps, low, high = 300, math.log(single + 0.5), math.log(keys + 0.5)
        middles = [math.exp(low + (high - low) * (place + 0.5) / steps) for place in range(steps)]
        ranks += middles
        widths += [rank * (high - low) / steps for rank in middles]
    weights = [rank**-exponent for rank in ranks]
    total = sum(width * weight for width, weight in zip(widths, weights, strict=True))
    distinct = sum(
        width * -math.expm1(-changes * weight / total) for width, weight in zip(widths, weights, strict=True)
    )
    return min(1.0, distinct / changes)
