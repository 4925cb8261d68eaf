from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.model import Run
from engine.ring import ring as ring_module
from engine.ring.codec import decode_runs, encode_runs, watermarks_of
from engine.ring.layout import HEADER_BYTES, READ, RELEASED, WORD_BYTES, WRITTEN
from engine.ring.ring import Ring, RingCorrupted, RingReader, RingSet, RingWriter
from engine.routing.nodes import NODES_MAX

RING_BYTES = 512
LAPS_MAX = 4
FUZZ = settings(max_examples=400, deadline=None, derandomize=True)
STARTS = st.sampled_from([0, RING_BYTES - 8, 2**32 - RING_BYTES, 2**48 + 24, 2**63 - 8])
POSITIONS = (WRITTEN, READ, RELEASED)


def flip_bits(ring: Ring, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 12)):
        ring.data[rng.randrange(RING_BYTES)] ^= 1 << rng.randrange(8)


def zero_words(ring: Ring, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 6)):
        ring.data_words[rng.randrange(RING_BYTES // WORD_BYTES)] = 0


def cut_off(ring: Ring, rng: random.Random) -> None:
    at = rng.randrange(RING_BYTES)
    ring.data[at:] = bytes(RING_BYTES - at)


def scribble(ring: Ring, rng: random.Random) -> None:
    at = rng.randrange(RING_BYTES)
    size = rng.randrange(1, RING_BYTES - at + 1)
    ring.data[at : at + size] = rng.randbytes(size)


def copy_words(ring: Ring, rng: random.Random) -> None:
    """Put frames, whole or not, where they do not belong: what they hold is valid, but elsewhere."""
    words = RING_BYTES // WORD_BYTES
    size = rng.randrange(1, words // 2)
    source, target = rng.randrange(words - size), rng.randrange(words - size)
    ring.data_words[target : target + size] = memoryview(bytes(ring.data_words[source : source + size])).cast("Q")


def flip_position(ring: Ring, rng: random.Random) -> None:
    ring.words[rng.choice(POSITIONS)] ^= 1 << rng.randrange(64)


def shift_position(ring: Ring, rng: random.Random) -> None:
    word = rng.choice(POSITIONS)
    ring.words[word] = max(0, ring.words[word] + rng.choice([-RING_BYTES, -24, -8, -1, 1, 8, 24, RING_BYTES]))


DAMAGES = [flip_bits, zero_words, cut_off, scribble, copy_words, flip_position, shift_position]


class Session:
    """A ring in use: every payload is unlike every other, and known."""

    def __init__(self, start: int, rng: random.Random) -> None:
        self.rng = rng
        self.ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
        for word in POSITIONS:
            self.ring.words[word] = start
        self.writer: RingWriter = self.ring.writer()
        self.reader: RingReader = self.ring.reader()
        self.offered: set[bytes] = set()
        self.refused = 0

    def offer(self) -> None:
        size = self.rng.choice([0, 1, 8, 30, RING_BYTES // 2 - HEADER_BYTES - 8])
        payload = b"%d:" % len(self.offered) + self.rng.randbytes(size)
        if self.writer.offer(payload):
            self.offered.add(payload)

    def read(self) -> None:
        """A reader that meets damage says so, and is replaced, as its process is."""
        try:
            frame = self.reader.read()
        except RingCorrupted:
            self.refused += 1
            self.reader = self.ring.reader()
            return
        if frame is not None:
            assert frame[0] in self.offered, "a payload that nobody wrote"
            if self.ring.released <= frame[1]:
                self.reader.release(frame[1])

    def step(self) -> None:
        self.rng.choice([self.offer, self.offer, self.read, self.read, self.replace])()

    def replace(self) -> None:
        if self.rng.random() < 0.2:
            self.reader = self.ring.reader()
        elif self.rng.random() < 0.2:
            self.writer = self.ring.writer()


@pytest.fixture(autouse=True)
def no_patience() -> object:
    """Do not wait for what becomes visible late: here nothing does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_module, "REREAD_S", 0)
        patch.setattr(ring_module, "REREADS_MAX", 3)
        yield


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_met_and_survived(damage: object) -> None:
    """Whatever befalls a ring's memory in use: no read hangs, none returns what was not written, errors are ours.

    And the damage is real: some of it is met.
    """
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        session = Session(rng.choice([0, RING_BYTES - 8, 2**32 - RING_BYTES, 2**48 + 24]), rng)
        for _ in range(rng.randrange(40)):
            session.step()
        assert not session.refused, "nothing is refused before the damage"
        damage(session.ring, rng)  # type: ignore[operator]
        for _ in range(20):
            session.step()
        refused += session.refused
    assert refused > 20


@FUZZ
@given(STARTS, st.integers(0, 2**32), st.integers(1, 4))
def test_blows_of_all_kinds_invent_nothing(start: int, seed: int, blows: int) -> None:
    """Several kinds of damage together, in a ring of any age, bring no payload that was not written."""
    rng = random.Random(seed)
    session = Session(start, rng)
    for _ in range(blows):
        for _ in range(rng.randrange(30)):
            session.step()
        rng.choice(DAMAGES)(session.ring, rng)
    for _ in range(30):
        session.step()


@FUZZ
@given(STARTS, st.binary(min_size=RING_BYTES, max_size=RING_BYTES), st.integers(0, 2**64 - 1))
def test_garbage_is_no_frame(start: int, garbage: bytes, written: int) -> None:
    """A ring that holds nothing but garbage, whatever its positions say, gives nothing but an error."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    ring.data[:] = garbage
    ring.words[RELEASED] = start
    ring.words[WRITTEN] = written
    reader = ring.reader()
    if written == start:
        assert reader.read() is None
        return
    with pytest.raises(RingCorrupted):
        reader.read()


runs_in_a_frame = st.lists(
    st.builds(
        Run,
        event=st.sampled_from(["hset", "del", "expired", "7", ""]),
        routes=st.integers(1, 2**63 - 1),
        captured_ms=st.integers(0, 2**45),
        keys=st.lists(st.binary(max_size=30), max_size=4),
    ),
    max_size=8,
)


def damaged(payload: bytes, rng: random.Random, blows: int) -> bytes:
    for _ in range(blows):
        at = rng.randrange(len(payload) + 1)
        payload = rng.choice(
            [
                payload[:at],
                payload[:at] + rng.randbytes(rng.randrange(1, 9)) + payload[at:],
                payload[:at] + rng.choice([b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 2_000, b"\xc0"]),
                payload[:at] + bytes([payload[at] ^ 1 << rng.randrange(8)]) + payload[at + 1 :]
                if at < len(payload)
                else payload,
            ]
        )
    return payload


@FUZZ
@given(runs_in_a_frame, st.integers(0, 2**32), st.integers(0, 3))
@example([], 0, 1)
@example([Run("no number", 0, 1, [b""])], 0, 0)
@example([Run("7", 0, 1, [b""])], 0, 0)
@example([Run("7 1", 0, 1, [])], 0, 0)
@example([Run("7 1", 0, 1, [b"3", b"4"])], 0, 0)
@example([Run("7 1", 0, 1, [b"3"]), Run("0 1", 0, 2, [b"255"])], 0, 0)
@example([Run("7 1", 0, 1, [b"3"]), Run("hset", 1, 2, [b"key"])], 0, 0)
@example([Run("7 1", 0, 1, [b"256"])], 0, 0)
@example([Run("7 1", 0, 1, [b"-1"])], 0, 0)
@example([Run("-7 1", 0, 1, [b"1"])], 0, 0)
def test_no_payload_crashes_its_reader(runs: list[Run], seed: int, blows: int) -> None:
    """A damaged payload that gets past its checksum is an error of ours, or runs in every sense."""
    payload = damaged(encode_runs(runs), random.Random(seed), blows)
    try:
        decoded = decode_runs(payload)
        watermarks = watermarks_of(decoded)
    except RingCorrupted:
        assert blows or not runs[0].routes, "only damage is refused"
        return
    if not blows:
        assert decoded == runs
    for run in decoded:
        assert type(run) is Run
        assert (type(run.event), type(run.routes), type(run.captured_ms)) == (str, int, int)
        assert {type(key) for key in run.keys} <= {bytes}
    for watermark in watermarks:
        assert 0 <= watermark.node < NODES_MAX
        assert {type(word) for word in watermark} == {int}
        assert all(0 <= word < 2**64 for word in watermark)


@FUZZ
@given(STARTS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_damaged_part_is_passed_over_at_once(start: int, frames: int, rng: random.Random) -> None:
    """Behind a damaged frame nothing is believed that was there; what is written after the skip comes as it was."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    ring.words[RELEASED] = ring.words[WRITTEN] = start
    writer, reader = ring.writer(), ring.reader()
    for _ in range(frames):
        assert writer.offer(rng.randbytes(8))
    ring.data_words[(start & (RING_BYTES - 1)) >> 3] ^= 1 << rng.randrange(64)
    with pytest.raises(RingCorrupted):
        reader.read()
    end = reader.skip()
    assert end == writer.written
    assert reader.read() is None
    reader.release(end)
    assert writer.offer(b"sound again")
    assert reader.read() == (b"sound again", writer.written)


def test_a_reader_skips_to_no_position_that_cannot_be() -> None:
    """Where the writer's position is damaged too, a skip is refused: it would lead anywhere."""
    ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
    reader = ring.reader()
    ring.words[WRITTEN] = RING_BYTES + 8
    with pytest.raises(RingCorrupted, match="can't be at position"):
        reader.skip()
