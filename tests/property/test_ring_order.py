"""What a reader may see on a processor that shows stores out of order (Arm), simulated word by word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ring import ring as ring_module
from engine.ring.layout import frame_bytes
from engine.ring.ring import Ring, RingCorrupted, RingReader, RingSet

RING_BYTES = 256
WORDS = RING_BYTES // 8
SIZES = st.sampled_from([0, 1, 8, 24, 40, 48, 72, 96, 112])


def cross(ring: Ring, sizes: list[int]) -> None:
    """Move a frame of each size through the ring, so that old laps leave their words behind."""
    writer, reader = ring.writer(), ring.reader()
    for size in sizes:
        assert writer.offer(b"o" * size)
        frame = reader.read()
        assert frame is not None
        reader.release(frame[1])


def read_all(reader: RingReader) -> list[bytes]:
    """Return what can be read before the ring is empty or a frame stays wrong."""
    payloads = []
    try:
        while (frame := reader.read()) is not None:
            payloads.append(frame[0])
    except RingCorrupted:
        pass
    return payloads


@settings(max_examples=1_500, deadline=None)
@given(
    history=st.lists(SIZES, max_size=14),
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    late=st.sets(st.integers(0, WORDS - 1), max_size=WORDS),
)
def test_stores_that_arrive_late_lose_nothing(history: list[int], sizes: list[int], late: set[int]) -> None:
    """Whichever words of new frames still show an older lap, no frame is skipped, invented or torn."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    cross(ring, history)
    reader, writer = ring.reader(), ring.writer()
    before = list(ring.data_words)
    offered = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    expected = [payload for payload in offered if writer.offer(payload)]
    after = list(ring.data_words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_module, "REREAD_S", 0)
        patch.setattr(ring_module, "REREADS_MAX", 3)
        for word in late:
            ring.data_words[word] = before[word]
        first = read_all(reader)
        for word in late:
            ring.data_words[word] = after[word]
        assert first + read_all(reader) == expected


@pytest.mark.parametrize(("old", "new"), [(0, 0), (16, 16), (48, 48), (48, 16), (16, 48), (0, 48), (112, 48)])
def test_an_older_frame_never_shows_through(monkeypatch: pytest.MonkeyPatch, old: int, new: int) -> None:
    """A new frame where older ones stood is read whole or not at all, whichever of its words are late."""
    monkeypatch.setattr(ring_module, "REREADS_MAX", 1)
    monkeypatch.setattr(ring_module, "REREAD_S", 0)
    words = frame_bytes(new) // 8
    for late in range(1 << words):
        ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
        cross(ring, [old] * (2 * RING_BYTES // frame_bytes(old)))
        assert ring.written & (RING_BYTES - 1) == 0
        reader, before = ring.reader(), list(ring.data_words[:words])
        payload = b"n" * new
        assert ring.writer().offer(payload)
        for word in range(words):
            if late >> word & 1:
                ring.data_words[word] = before[word]
        assert read_all(reader) in ([], [payload])


def test_old_padding_under_a_new_frame_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new position over an older lap's padding mark is a frame that is not visible yet, never padding."""
    monkeypatch.setattr(ring_module, "REREAD_S", 0)
    monkeypatch.setattr(ring_module, "REREADS_MAX", 3)
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    cross(ring, [96, 96, 96, 80, 0])  # the third is padded at index 224; the others lead there again
    assert ring.written & (RING_BYTES - 1) == 224
    mark = 224 // 8 + 1
    padding = ring.data_words[mark]
    writer, reader = ring.writer(), ring.reader()
    assert writer.offer(b"first")
    assert writer.offer(b"second")
    arrived, ring.data_words[mark] = ring.data_words[mark], padding
    with pytest.raises(RingCorrupted):
        reader.read()
    ring.data_words[mark] = arrived
    assert read_all(reader) == [b"first", b"second"]
