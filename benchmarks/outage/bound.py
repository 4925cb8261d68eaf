"""What the engine's memory may come to by its settings: each part, and how it is reckoned.  (pure)"""

from __future__ import annotations

import sys

import msgspec

from engine.config import Settings
from engine.delivery.backlog.backlog import REMOVED_KEYS_MAX
from engine.delivery.backlog.file import CACHE_BYTES_MAX
from engine.delivery.backlog.shelf import ROWS_AT_ONCE
from engine.delivery.backlog.walk import OUT_KEYS_MAX
from engine.model import Change, Run
from engine.ring.codec import encode_runs

MIB = 1 << 20
ALLOCATOR_BLOCK_BYTES = 16
"""CPython's allocator rounds up to this."""
COPIES = 3
"""Of a batch's values: as they were read, as records, as the payload that is sent."""
GIVEN_BACK_LATE = 1.25
"""What the allocator keeps of memory that was freed in pieces."""


class Part(msgspec.Struct):
    """A part of the bound, and how it comes about."""

    name: str
    mib: float
    how: str


def bound_of(settings: Settings, key_bytes: int, base_mib: float) -> list[Part]:
    """Return the parts of the bound for keys of this length; ``base_mib`` is what the engine took before any load."""
    capture, ring, delivery = settings.capture, settings.ring, settings.delivery
    shards = int(capture.shards)
    rings = shards * delivery.invokers
    change_bytes = change_in_ring_bytes(key_bytes)
    entry_bytes = change_in_memory_bytes(key_bytes) + _block(sys.getsizeof((1, 2))) + slot_bytes()
    in_run_bytes = entry_bytes - name_and_time_bytes()
    dirty_bytes = change_in_memory_bytes(key_bytes) + slot_bytes()
    in_rings = rings * ring.ring_bytes // change_bytes
    set_bytes = _block(sys.getsizeof(bytes(key_bytes))) + slot_bytes()
    aside = delivery.retrying_keys_max + ROWS_AT_ONCE
    threads = sum(route.parallelization_factor for route in settings.routes)
    batch_mib = COPIES * min(delivery.payload_bytes_max, _batch_bytes(settings)) / MIB
    return [
        Part("processes", round(base_mib, 1), "measured before the load: interpreter and code"),
        Part("rings", rings * ring.ring_bytes / MIB, f"{rings} × ring.ring_bytes"),
        Part(
            "dirty sets",
            _mib(shards * capture.dirty_keys_max * dirty_bytes),
            f"{shards} shards × capture.dirty_keys_max × {dirty_bytes} bytes",
        ),
        Part(
            "keys that hold the rings",
            _mib(in_rings * in_run_bytes),
            f"{in_rings:,} changes of {change_bytes} bytes in full rings × {in_run_bytes} bytes",
        ),
        Part(
            "keys on disk that stay in memory",
            _mib(delivery.invokers * delivery.waiting_keys_max * len(settings.routes) * entry_bytes),
            f"{delivery.invokers} invokers × routes × delivery.waiting_keys_max × {entry_bytes} bytes",
        ),
        Part(
            "keys that are tried again or moved",
            _mib(delivery.invokers * aside * len(settings.routes) * entry_bytes),
            f"{delivery.invokers} invokers × routes × (delivery.retrying_keys_max + {ROWS_AT_ONCE:,})"
            f" × {entry_bytes} bytes",
        ),
        Part(
            "backlog",
            _mib(delivery.invokers * (CACHE_BYTES_MAX + (OUT_KEYS_MAX + REMOVED_KEYS_MAX) * set_bytes)),
            f"{delivery.invokers} invokers × ({CACHE_BYTES_MAX // MIB} MiB of pages"
            f" + {OUT_KEYS_MAX + REMOVED_KEYS_MAX:,} keys × {set_bytes} bytes)",
        ),
        Part(
            "batches on their way",
            round(delivery.invokers * (threads + 1) * batch_mib, 1),
            f"{delivery.invokers} invokers × {threads + 1} batches × {COPIES} copies",
        ),
    ]


def total_of(parts: list[Part]) -> float:
    """Return the bound in MiB: the parts, and what the allocator keeps of what was freed."""
    fixed = sum(part.mib for part in parts if part.name in {"processes", "rings"})
    return round(fixed + GIVEN_BACK_LATE * (sum(part.mib for part in parts) - fixed), 1)


def change_in_ring_bytes(key_bytes: int) -> int:
    """Return what a change takes in a ring, in a run of many; rounded down."""
    frame = encode_runs([Run("hset", 1, 1_763_890_000_123, [bytes(key_bytes)] * 256)])
    return len(frame) // 256


def change_in_memory_bytes(key_bytes: int) -> int:
    """Return what a change takes in memory that no other key shares, with its key, its time and its event's name."""
    change = Change("hset", 1, 1_763_890_000_123)
    parts = (change, bytes(key_bytes), change.event, change.captured_ms)
    return sum(_block(sys.getsizeof(part)) for part in parts)


def name_and_time_bytes() -> int:
    """Return what an event's name and a time take in memory, which are the run's.

    A change that comes alone has its own, but takes so much of a ring that fewer fit.
    """
    return sum(_block(sys.getsizeof(part)) for part in ("hset", 1_763_890_000_123))


def slot_bytes() -> int:
    """Return what a dictionary takes for a key at its worst: just grown, with the old one not yet freed."""
    full = 1 << 16
    filled = dict.fromkeys(range(full * 2 // 3))
    before = sys.getsizeof(filled)
    filled[-1] = filled[-2] = None
    return (before + sys.getsizeof(filled)) // len(filled)


def _batch_bytes(settings: Settings) -> int:
    # A value of this load is a hash of two short fields, its record about 250 bytes.
    return max(route.batch_size for route in settings.routes) * 1_000


def _block(size: int) -> int:
    return -(-size // ALLOCATOR_BLOCK_BYTES) * ALLOCATOR_BLOCK_BYTES


def _mib(size: float) -> float:
    return round(size / MIB, 1)
