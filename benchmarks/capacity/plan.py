"""From what is wanted to what it takes: shards, invokers, hosts, concurrency, write units, money, what breaks first.

The model is a chain of stations: the server's one thread, subscribers, invokers (`benchmarks.capacity.hosts`), slots of
the function. Each is kept below a part of what it can do. The lag's percentile is the sum of what each adds: a queue at
each station that is as busy as it may be (`benchmarks.capacity.queueing`), the idle lag that was measured, the
function. All of them at their worst at once is more than there is; what processes that share a core do to each other,
and bursts, are not in it. Coalescing is counted within the time that a key waits at light load and the batching window;
under overload there is more of it.  (pure)
"""

from __future__ import annotations

import math

import msgspec

from benchmarks.capacity.calibration import Calibration
from benchmarks.capacity.hosts import (
    BUSY_MAX,
    INVOKERS_MAX,
    SLICES_MAX,
    SLOTS_A_INVOKER,
    Fleet,
    Work,
    cheapest,
    effective,
)
from benchmarks.capacity.prices import Host, LambdaPrices, Prices
from benchmarks.capacity.queueing import distinct_share, wait_ms
from benchmarks.capacity.usl import Usl

SERVER_BUSY_MAX = 0.8
BATCH_SIZE = 500
PAYLOAD_BYTES_MAX, RECORD_BYTES = 6_000_000, 200
"""Of an invocation; of a record without its value."""
HOURS_A_MONTH = 730
SECONDS_A_MONTH = HOURS_A_MONTH * 3_600


class Wish(msgspec.Struct, frozen=True):
    """What is wanted: changes a second, of so many keys, of this size; the lag's percentile within ``lag_ms``.

    ``skew`` is Zipf's exponent, 0 for uniform. ``window_s`` is the route's ``maximum_batching_window_in_seconds``.
    """

    rate_per_s: float
    keys: float
    value_bytes: float = 200.0
    lag_ms: float = 250.0
    percentile: float = 99.0
    skew: float = 0.0
    window_s: float = 0.0


class Limit(msgspec.Struct, frozen=True):
    """The rate at which one part has nothing left."""

    part: str
    rate_per_s: float


class Server(msgspec.Struct, frozen=True):
    """Redis's own thread: how much of it is used without the engine, with it, and what its patterns alone take."""

    busy_without: float
    busy_with: float
    busy_by_patterns: float


class Costs(msgspec.Struct, frozen=True):
    """A month's cost, in the currency of the prices."""

    hosts: float
    lambda_requests: float
    lambda_time: float
    write_units: float
    endpoints: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum."""
        return self.hosts + self.lambda_requests + self.lambda_time + self.write_units + self.endpoints


class Deployment(msgspec.Struct, frozen=True):
    """What it takes.

    ``shards``, ``invokers`` and ``memory_gib`` are of each host; several hosts have a slice of the keys each.
    ``delivered_per_s`` are changes less those that coalesce; ``cores`` those that all hosts use together.
    """

    wish: Wish
    shards: int
    invokers: int
    hosts: int
    host: Host
    cores: float
    memory_gib: float
    network_gbit_s: float
    delivered_per_s: float
    records_per_invocation: float
    invocations_per_s: float
    concurrency: int
    lag_ms: float
    write_units_per_s: float
    server: Server
    costs: Costs
    limits: list[Limit]

    @property
    def breaks_first(self) -> Limit:
        """Return the part that has nothing left at the lowest rate."""
        return min(self.limits, key=lambda limit: limit.rate_per_s)


class Impossible(ValueError):
    """What is wanted can't be obtained; the message says which part refuses, and what could be changed."""


def deploy(wish: Wish, known: Calibration, prices: Prices) -> Deployment:
    """Return the cheapest deployment that does what is wanted; raise `Impossible`."""
    _check(wish)
    window_s = wish.window_s + known.idle_lag_ms / 1_000
    share = distinct_share(wish.rate_per_s, wish.keys, window_s, wish.skew)
    delivered = wish.rate_per_s * share
    concurrency, batch, lag = _slots(wish, known, prices.function, delivered)
    key_us = known.key_us(wish.value_bytes) + known.invoke_cpu_us / batch
    record_bytes = wish.value_bytes + RECORD_BYTES
    work = Work(
        capture_cores=wish.rate_per_s * known.capture_cpu_us / 1e6,
        delivery_cores=delivered * key_us / 1e6,
        concurrency=concurrency,
        network_gbit_s=8e-9 * (wish.rate_per_s * known.event_wire_bytes + 2 * delivered * record_bytes),
        keys=wish.keys,
    )
    fleet = cheapest(work, known, prices.hosts)
    if fleet is None:
        raise Impossible(
            f"{work.capture_cores + work.delivery_cores:.1f} cores of work, {concurrency} invocations at once: more "
            f"than {SLICES_MAX} of the largest host; name a larger one in the prices"
        )
    server = _server(wish, known, fleet.hosts * fleet.shards, delivered)
    invocations = delivered / batch
    units = delivered * math.ceil((wish.value_bytes + 100) / prices.dynamodb.write_unit_bytes)
    function = prices.function
    function_s = invocations * (function.invocation_ms + batch * function.item_ms) / 1_000
    return Deployment(
        wish=wish,
        shards=fleet.shards,
        invokers=fleet.invokers,
        hosts=fleet.hosts,
        host=fleet.host,
        cores=_used(work.capture_cores, known.shards_usl, fleet.shards, fleet)
        + _used(work.delivery_cores, known.invokers_usl, fleet.invokers, fleet),
        memory_gib=fleet.memory_gib,
        network_gbit_s=work.network_gbit_s,
        delivered_per_s=delivered,
        records_per_invocation=batch,
        invocations_per_s=invocations,
        concurrency=concurrency,
        lag_ms=lag,
        write_units_per_s=units,
        server=server,
        costs=Costs(
            fleet.hour * HOURS_A_MONTH,
            invocations * SECONDS_A_MONTH / 1e6 * prices.function.million_requests,
            function_s * SECONDS_A_MONTH * prices.function.memory_gb * prices.function.gb_second,
            units * SECONDS_A_MONTH / 1e6 * prices.dynamodb.million_write_units,
            prices.network.hour * HOURS_A_MONTH,
        ),
        limits=_limits(known, prices.function, share, fleet, work, wish),
    )


def _before_slots_ms(wish: Wish, known: Calibration) -> float:
    """Return the percentile of the lag before a slot: idle lag, window, and queues as long as they may be."""
    server_us = known.server_cpu_us + known.notify_cpu_us + known.pattern_cpu_us + known.read_cpu_us
    stations = (
        (server_us, SERVER_BUSY_MAX),
        (known.capture_cpu_us, BUSY_MAX),
        (known.key_us(wish.value_bytes), BUSY_MAX),
    )
    queues_ms = sum(wait_ms(1, busy * 1e6 / us, us / 1_000, wish.percentile) for us, busy in stations)
    return known.idle_ms(wish.percentile) + queues_ms + wish.window_s * 1_000


def _check(wish: Wish) -> None:
    for name in ("rate_per_s", "keys", "value_bytes", "lag_ms"):
        value = getattr(wish, name)
        if not (math.isfinite(value) and value > 0):
            raise Impossible(f"{name} is {value:g}: more than 0 is wanted")
    if not 50 <= wish.percentile < 100:
        raise Impossible(f"percentile is {wish.percentile:g}: from 50 to below 100 is wanted")
    if not 0 <= wish.skew <= 5:
        raise Impossible(f"skew is {wish.skew:g}: from 0 (uniform) to 5 is wanted")
    if wish.value_bytes > 400_000:
        raise Impossible(f"value_bytes is {wish.value_bytes:,.0f}: an item of DynamoDB holds 400 KB")
    if not 0 <= wish.window_s <= 300:
        raise Impossible(f"window_s is {wish.window_s:g}: a batching window is from 0 to 300 s")


def _slots(wish: Wish, known: Calibration, function: LambdaPrices, delivered: float) -> tuple[int, float, float]:
    """Return the fewest invocations at once that keep the lag, the records of each, and that lag."""
    alone_ms = _before_slots_ms(wish, known) + function.invocation_ms + function.item_ms
    if alone_ms > wish.lag_ms:
        raise Impossible(
            f"a lag of {wish.lag_ms:g} ms: one change alone takes {alone_ms:.1f} ms, of which the function has "
            f"{function.invocation_ms + function.item_ms:.1f} and the batching window {wish.window_s * 1_000:.0f}"
        )
    most = SLOTS_A_INVOKER * INVOKERS_MAX * SLICES_MAX
    low, high = 0, 1
    while (found := _lag(wish, known, function, delivered, high)) is None:
        low, high = high, 2 * high
        if high > most:
            raise Impossible(
                f"{delivered:,.0f} deliveries a second within {wish.lag_ms:g} ms: more than {most:,} invocations "
                "at once; a faster function, or a longer lag, would do"
            )
    while high - low > 1:
        middle = (low + high) // 2
        if (better := _lag(wish, known, function, delivered, middle)) is None:
            low = middle
        else:
            high, found = middle, better
    return high, *found


def records_max(value_bytes: float) -> float:
    """Return how many records of this size an invocation takes: the route's batch size, and Lambda's payload."""
    return max(1.0, min(BATCH_SIZE, PAYLOAD_BYTES_MAX / (value_bytes + RECORD_BYTES)))


def _lag(
    wish: Wish, known: Calibration, function: LambdaPrices, delivered: float, slots: int
) -> tuple[float, float] | None:
    """Return the records an invocation and the lag (ms) with so many slots; None if it is more than is wanted.

    While slots are free each change is sent alone. Else a slot's next batch is what came while all were busy: in a
    steady state b = D·(f + b·i)/S; a change waits for the next slot that frees, one every T/S on average. A window
    gathers more.
    """
    each_s, item_s = function.invocation_ms / 1_000, function.item_ms / 1_000
    if delivered * (item_s + each_s / records_max(wish.value_bytes)) > slots * BUSY_MAX:
        return None
    gathered = max(1.0, delivered * wish.window_s / slots)
    batch = max(gathered, delivered * each_s / (slots - delivered * item_s))
    if batch > records_max(wish.value_bytes):
        return None
    takes_ms = function.invocation_ms + batch * function.item_ms
    if batch > gathered:
        waits_ms = takes_ms / slots * math.log(1 / (1 - wish.percentile / 100))
    else:
        waits_ms = wait_ms(slots, delivered / batch, takes_ms, wish.percentile)
    lag_ms = _before_slots_ms(wish, known) + waits_ms + takes_ms
    return (batch, lag_ms) if lag_ms <= wish.lag_ms else None


def _used(cores: float, law: Usl | None, count: int, fleet: Fleet) -> float:
    """Return the cores of the fleet in use for so many of the calibrated machine: what contention takes is used too."""
    return cores * count / effective(law, count) / fleet.host.relative_core


def _server(wish: Wish, known: Calibration, shards: int, delivered: float) -> Server:
    patterns = known.pattern_cpu_us * shards
    without = wish.rate_per_s * known.server_cpu_us / 1e6
    added = wish.rate_per_s * (known.notify_cpu_us + patterns) + delivered * known.read_cpu_us
    busy = without + added / 1e6
    if busy > SERVER_BUSY_MAX:
        raise Impossible(
            f"{wish.rate_per_s:,.0f} changes/s of one server: its one thread would be {busy:.0%} used, and is "
            f"{without:.0%} without the engine; spread the keys over more servers, or have the engine read a replica"
        )
    return Server(without, busy, wish.rate_per_s * patterns / 1e6)


def _limits(
    known: Calibration, function: LambdaPrices, share: float, fleet: Fleet, work: Work, wish: Wish
) -> list[Limit]:
    """Return the rate at which each part has nothing left, with full batches and the coalescing of the plan."""
    patterns_us = known.pattern_cpu_us * fleet.hosts * fleet.shards
    server_us = known.server_cpu_us + known.notify_cpu_us + patterns_us + share * known.read_cpu_us
    most = records_max(wish.value_bytes)
    key_us = known.key_us(wish.value_bytes) + known.invoke_cpu_us / most
    slot_us = 1_000 * (function.item_ms + function.invocation_ms / most)
    core_us = fleet.hosts * fleet.host.relative_core * 1e6
    return [
        Limit("the server's one thread", 1e6 / server_us),
        Limit("the subscribers", effective(known.shards_usl, fleet.shards) * core_us / known.capture_cpu_us),
        Limit("the invokers", effective(known.invokers_usl, fleet.invokers) * core_us / key_us / share),
        Limit("the function's concurrency", work.concurrency * 1e6 / slot_us / share),
        Limit("the hosts' network", fleet.hosts * fleet.host.network_gbit_s / work.network_gbit_s * wish.rate_per_s),
    ]
