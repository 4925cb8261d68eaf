from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.errors import EngineError
from engine.model import Run
from engine.ring import ring as ring_module
from engine.ring.codec import decode_runs, encode_runs
from engine.ring.layout import HEADER_BYTES, READ, RELEASED, WRITTEN, frame_bytes
from engine.ring.ring import Ring, RingCorrupted, RingSet

RING_BYTES = 256
PAYLOADS = st.binary(min_size=0, max_size=RING_BYTES // 2 - HEADER_BYTES)
STARTS = st.sampled_from([0, RING_BYTES - 8, 2**32 - RING_BYTES, 2**32 - 8, 2**48 + 24])


def ring_at(position: int) -> Ring:
    """Return an empty ring whose positions have come this far."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    for word in (WRITTEN, READ, RELEASED):
        ring.words[word] = position
    return ring


class RingMachine(RuleBasedStateMachine):
    """A ring against a deque: nothing is lost, reordered or invented, whoever is replaced whenever."""

    def __init__(self) -> None:
        super().__init__()
        self.begin_at(0)

    @initialize(position=STARTS)
    def begin_at(self, position: int) -> None:
        """Positions grow for years: a ring that has come far behaves like a new one."""
        self.ring = ring_at(position)
        self.writer = self.ring.writer()
        self.reader = self.ring.reader()
        self.unread: deque[bytes] = deque()
        self.unsettled: deque[tuple[bytes, int]] = deque()

    @rule(payload=PAYLOADS)
    def offer(self, payload: bytes) -> None:
        used = self.ring.written - self.ring.released
        if self.writer.offer(payload):
            self.unread.append(payload)
        else:
            # Padding can take at most what did not suffice for the frame.
            assert RING_BYTES - used < 2 * frame_bytes(len(payload)), "refused although there was room"

    @rule()
    def read(self) -> None:
        frame = self.reader.read()
        if frame is None:
            assert not self.unread
        else:
            assert frame[0] == self.unread.popleft()
            self.unsettled.append(frame)

    @rule()
    def release(self) -> None:
        if self.unsettled:
            self.reader.release(self.unsettled.popleft()[1])

    @rule()
    def reader_is_replaced(self) -> None:
        self.reader = self.ring.reader()
        self.unread.extendleft(payload for payload, _ in reversed(self.unsettled))
        self.unsettled.clear()

    @rule(junk=st.binary(max_size=64))
    def writer_dies_in_the_middle(self, junk: bytes) -> None:
        """What lies behind *written* is garbage of a frame that was never finished."""
        start = self.ring.written & (RING_BYTES - 1)
        room = RING_BYTES - (self.ring.written - self.ring.released)
        size = min(len(junk), room, RING_BYTES - start)
        self.ring.data[start : start + size] = junk[:size]
        self.writer = self.ring.writer()

    @invariant()
    def positions_are_in_order(self) -> None:
        assert self.ring.written >= self.ring.read >= self.ring.released
        assert self.ring.written - self.ring.released <= RING_BYTES


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestRing = RingMachine.TestCase


@settings(max_examples=400, deadline=None)
@given(position=STARTS, payload=PAYLOADS, seed=st.integers(0, 2**32), flips=st.integers(1, 12))
def test_damage_is_never_taken_for_a_frame(position: int, payload: bytes, seed: int, flips: int) -> None:
    """Flipped bits anywhere in the ring are refused, in bounded time, or hit no byte that counts."""
    ring = ring_at(position)
    assert ring.writer().offer(payload)
    rng = random.Random(seed)
    for _ in range(flips):
        ring.data[rng.randrange(RING_BYTES)] ^= 1 << rng.randrange(8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_module, "REREAD_S", 0)
        reader = ring.reader()
        try:
            frame = reader.read()
        except RingCorrupted:
            return
    assert frame is not None, "a damaged frame was skipped"
    assert frame[0] == payload


def test_zeroed_memory_is_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that sees *written* before the frame (Arm may) invents nothing from fresh memory."""
    monkeypatch.setattr(ring_module, "REREAD_S", 0)
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    ring.words[0] = 64
    with pytest.raises(RingCorrupted):
        ring.reader().read()


def test_a_frame_that_becomes_visible_late_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that arrive after *written* are waited for, not refused."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    ring.writer().offer(b"late")
    whole = bytes(ring.data)
    ring.data[:32] = bytes(32)

    def arrive(_seconds: float) -> None:
        ring.data[:] = whole

    monkeypatch.setattr(ring_module.time, "sleep", arrive)
    assert ring.reader().read() == (b"late", frame_bytes(4))


def test_rings_beyond_the_memory_are_refused_with_a_remedy() -> None:
    """A mapping that the system can't give is one clear error, which names the setting."""
    with pytest.raises(EngineError, match="64 shards × 64 invokers") as refused:
        RingSet(64, 64, 1 << 60)
    assert "ring.ring_bytes" in refused.value.hint


def test_rings_of_a_set_share_no_byte() -> None:
    """What is written to one ring is seen in no other."""
    rings = RingSet(2, 3, RING_BYTES)
    rings.ring(1, 1).writer().offer(b"x" * 50)
    others = [rings.ring(s, i) for s in range(2) for i in range(3) if (s, i) != (1, 1)]
    assert all(not any(ring.data) and ring.written == 0 for ring in others)
    assert Ring.bytes_needed(RING_BYTES) > RING_BYTES


@given(
    st.lists(
        st.builds(
            Run,
            event=st.text(max_size=10),
            routes=st.integers(0, 2**63 - 1),
            captured_ms=st.integers(0, 2**45),
            keys=st.lists(st.binary(max_size=50), max_size=5),
        )
    )
)
def test_runs_survive_the_codec(runs: list[Run]) -> None:
    """Keys of any bytes and all masks come out as they went in."""
    assert decode_runs(encode_runs(runs)) == runs
