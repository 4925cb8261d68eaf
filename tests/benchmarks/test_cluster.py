from __future__ import annotations

import pytest

from benchmarks.cluster.__main__ import Point, measure, table_of
from benchmarks.cluster.nodes import KEYS, Primary
from engine.sandbox.valkey import ValkeyServer


def point(primaries: int, shards: int, subscribers_us: float, yardstick_us: float = 1.0) -> Point:
    return Point(primaries, shards, 1_000, 50_000.0, subscribers_us, 5.0, 3.0, 1.0, yardstick_us, 0)


def test_efficiency_takes_the_machine_out() -> None:
    """Twice the CPU on a machine that is half as fast is no loss; twice on the same one is a half."""
    first = point(1, 1, 2.0)
    assert point(3, 1, 4.0, yardstick_us=2.0).efficiency(first) == pytest.approx(1.0)
    assert point(1, 4, 4.0).efficiency(first) == pytest.approx(0.5)
    assert table_of([first, point(1, 4, 4.0)]).row_count == 2


def test_each_primary_is_sent_its_own_keys() -> None:
    """The load is made of keys whose slots are the node's, so that it need not follow anybody elsewhere."""
    one = Primary(ValkeyServer(), (0, 8_191))
    assert sum(batch.count(b"HSET") for batch in one.batches) == KEYS


def test_every_change_is_seen() -> None:
    """A small run: the engine reads an event of every change on both primaries."""
    told = measure(2, 1, 4_000)
    assert (told.changes, told.lost) == (4_000, 0)
