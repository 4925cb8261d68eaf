"""In which order a ring's ends touch shared memory: whoever is killed, or looks, between two steps sees no lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest

from engine.model import Watermark
from engine.ring.layout import MOMENT, RELEASED, SERVER_MARK, VERSION, WRITTEN, entry_at
from engine.ring.ring import Ring, RingSet
from engine.routing.nodes import NODES_MAX

OLD, NEW = Watermark(1_000, 11, 5, 1), Watermark(2_000, 22, 5, 2)
ENTRY = entry_at(5)


class Watched:
    """A view of shared memory that notes every store, and calls ``on_load`` before every load."""

    def __init__(self, view: Any, name: str, stores: list[tuple[str, Any]], on_load: Callable[[], None]) -> None:
        self._view, self._name, self._stores, self._on_load = view, name, stores, on_load

    def __getitem__(self, index: Any) -> Any:
        self._on_load()
        return self._view[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._stores.append((self._name, index))
        self._view[index] = value


def watched(ring: Ring, on_load: Callable[[], None] = lambda: None) -> list[tuple[str, Any]]:
    """Have every store into this ring noted."""
    stores: list[tuple[str, Any]] = []
    for name in ("words", "data", "data_words"):
        setattr(ring, name, Watched(getattr(ring, name), name, stores, on_load))
    return stores


def test_the_position_moves_last() -> None:
    """Payload and header are stored before *written*, padding included: a writer killed in between wrote nothing."""
    ring = RingSet(1, 1, 256).ring(0, 0)
    writer, reader = ring.writer(), ring.reader()
    stores = watched(ring)
    for _ in range(9):
        stores.clear()
        assert writer.offer(b"x" * 40)
        assert stores[-1] == ("words", WRITTEN)
        assert ("words", WRITTEN) not in stores[:-1]
        frame = reader.read()
        assert frame is not None
        reader.release(frame[1])
        assert stores[-1] == ("words", RELEASED)


def interleavings(steps: int, places: int) -> Iterator[list[int]]:
    """Yield all ways to do so many steps in order before so many places (and after the last)."""
    for bars in combinations(range(steps + places), places):
        counts, before = [], -1
        for bar in bars:
            counts.append(bar - before - 1)
            before = bar
        yield counts


@pytest.mark.parametrize("counts", list(interleavings(4, 4)), ids=str)
def test_a_mark_is_never_that_of_another_moment(counts: list[int]) -> None:
    """However a reader's loads fall between a writer's stores, the mark is the moment's own, or none, and the version
    is not that of a later one.
    """
    ring = RingSet(1, 1, 256).ring(0, 0)
    ring.reader().set_watermark(OLD)
    words = ring.words
    stores = [(SERVER_MARK, 0), (MOMENT, NEW.moment_ms), (SERVER_MARK, NEW.server_mark), (VERSION, NEW.version)]
    steps = iter(stores)
    before_load = iter(counts)

    def store_some() -> None:
        for _ in range(next(before_load, 0)):
            index, value = next(steps)
            words[ENTRY + index] = value

    watched(ring, store_some)
    seen = ring.watermark(5)
    moment = OLD if seen.moment_ms == OLD.moment_ms else NEW
    assert seen.moment_ms == moment.moment_ms
    assert seen.server_mark in (0, moment.server_mark)
    assert seen.version <= moment.version


def test_a_watermark_is_stored_without_a_mark_first() -> None:
    """The old mark goes before the new moment comes, the new mark comes after it, and its version last."""
    ring = RingSet(1, 1, 256).ring(0, 0)
    reader = ring.reader()
    stores = watched(ring)
    reader.set_watermark(NEW)
    assert stores == [("words", ENTRY + word) for word in (SERVER_MARK, MOMENT, SERVER_MARK, VERSION)]


def test_nodes_and_frames_do_not_touch_each_other() -> None:
    """Every node's watermark has words of its own, beside positions and frames."""
    ring = RingSet(1, 1, 256).ring(0, 0)
    writer, reader = ring.writer(), ring.reader()
    assert writer.offer(b"first")
    marks = [Watermark(2**64 - 1 - node, node, node, 2**63 + node) for node in range(NODES_MAX)]
    for mark in marks:
        reader.set_watermark(mark)
    assert [ring.watermark(node) for node in range(NODES_MAX)] == marks
    assert reader.watermarks() == {mark.node: mark.moment_ms for mark in marks}
    frame = reader.read()
    assert frame is not None and frame[0] == b"first"
    assert ring.released == 0
