"""What the model knows of the engine: measured by ``make bench``, or of another machine, which was.  (pure)"""

from __future__ import annotations

import math

import msgspec

from benchmarks.capacity.usl import Usl


class Calibration(msgspec.Struct, frozen=True):
    """Costs of the engine, its server and its function on one machine, each with its unit.

    CPU times: ``capture_cpu_us`` of a subscriber, an event; ``key_cpu_us`` of an invoker, a key (read, body, record,
    settling), and ``value_cpu_us_per_kib`` for each KiB of its value; ``invoke_cpu_us`` of an invoker, an invocation.
    Redis's own: ``server_cpu_us`` an HSET with nobody listening, ``notify_cpu_us`` what notifications add to it,
    ``pattern_cpu_us`` what each pattern adds, ``read_cpu_us`` the read of a key. ``idle_lag_ms`` (the median) and
    ``idle_lag_ms_p99`` are the lag where nothing waits, before the function. ``waiting_key_bytes`` is the memory of a
    key that waits, without its name. The laws are by the CPU of an event with more shards
    or invokers (`benchmarks.capacity.usl`).
    """

    capture_cpu_us: float = 0.76
    key_cpu_us: float = 4.6
    invoke_cpu_us: float = 420.0
    value_cpu_us_per_kib: float = 1.0
    server_cpu_us: float = 1.9
    notify_cpu_us: float = 0.3
    pattern_cpu_us: float = 0.25
    read_cpu_us: float = 1.0
    idle_lag_ms: float = 1.1
    idle_lag_ms_p99: float = 3.0
    waiting_key_bytes: float = 200.0
    event_wire_bytes: float = 90.0
    shards_usl: Usl | None = None
    invokers_usl: Usl | None = None
    is_measured: bool = False
    """Whether these are of the machine that ``make bench`` ran on, rather than the documented ones."""

    def key_us(self, value_bytes: float) -> float:
        """Return an invoker's CPU a key of this size, without its part of an invocation."""
        return self.key_cpu_us + self.value_cpu_us_per_kib * value_bytes / 1024

    def idle_ms(self, percentile: float) -> float:
        """Return a percentile of the lag where nothing waits, by an exponential tail through the two that are known."""
        median, tail = 0.5, 1 - percentile / 100
        beyond = math.log(median / tail) / math.log(median / 0.01)
        return self.idle_lag_ms + max(0.0, self.idle_lag_ms_p99 - self.idle_lag_ms) * beyond
