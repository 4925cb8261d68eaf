"""A ring of frames in shared memory: one writer process, one reader process, any of them killed at any time.

**Positions.** *written*, *read* and *released* are byte counts that only grow; each has one writer. The writer
stores a frame first and *written* last. The reader copies a payload out, and moves *released* only when all of it
is settled; a replaced reader begins again at *released*, so every frame is seen at least once. A replaced writer
begins at *written*: what its predecessor left half done lies behind that and was never visible.

**Order in memory.** Python has no fences. x86-64 makes stores visible in program order, and loads are not
reordered with loads, so a reader that sees *written* sees the frame. Arm promises neither: a reader there may see
the new *written* with old bytes behind it. Hence each frame carries its own absolute position, which no older lap
can have written there, and a checksum over the payload that starts from that position. What does not match is
*not yet visible* and read again, up to `REREADS_MAX` times; only then is it `RingCorrupted`. A frame that is taken
for good although one of its bytes is still old would have to match a 32-bit checksum by chance.

The other direction, *released* seen before the reader's copy was made, would let the writer overwrite a frame that
is still being read. A payload is copied by a completed call, many calls before *released* is stored, and settled in
between by an invocation, which passes through system calls and locks; the checksum is verified on the copy.
"""

from __future__ import annotations

import mmap
import time
import zlib

from engine.ring.layout import (
    DATA_AT,
    FRAME_BYTES_LIMIT,
    HEADER_BYTES,
    PADDING,
    READ,
    RELEASED,
    WRITTEN,
    frame_bytes,
    is_power_of_two,
)

REREADS_MAX = 200
REREAD_S = 0.000_5
_LOW = 0xFFFF_FFFF


class RingCorrupted(Exception):
    """A frame stayed wrong: memory was damaged, or a bug wrote there."""


class Ring:
    """The memory of one ring, and its positions."""

    def __init__(self, memory: memoryview, ring_bytes: int) -> None:
        assert is_power_of_two(ring_bytes)
        assert ring_bytes > HEADER_BYTES
        assert len(memory) == self.bytes_needed(ring_bytes)
        self.ring_bytes = ring_bytes
        self.words = memory[:DATA_AT].cast("Q")
        self.data = memory[DATA_AT:]
        self.data_words = self.data.cast("Q")

    @staticmethod
    def bytes_needed(ring_bytes: int) -> int:
        """Return how much memory a ring of this capacity takes."""
        return DATA_AT + ring_bytes

    @property
    def written(self) -> int:
        """Return the position up to which frames are there."""
        return int(self.words[WRITTEN])

    @property
    def read(self) -> int:
        """Return the position up to which frames were handed out."""
        return int(self.words[READ])

    @property
    def released(self) -> int:
        """Return the position up to which frames are settled."""
        return int(self.words[RELEASED])

    def writer(self) -> RingWriter:
        """Return a writer that goes on where the last one stopped."""
        return RingWriter(self)

    def reader(self) -> RingReader:
        """Return a reader that begins again at what is not settled."""
        return RingReader(self)


class RingWriter:
    """The writing end."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._written = ring.written

    @property
    def written(self) -> int:
        """Return the position up to which frames are there."""
        return self._written

    @property
    def released(self) -> int:
        """Return the position up to which frames are settled."""
        return self._ring.released

    @property
    def free_bytes(self) -> int:
        """Return how much room there is, padding not counted."""
        return self._ring.ring_bytes - (self._written - self._ring.released)

    def offer(self, payload: bytes | bytearray | memoryview) -> bool:
        """Write one frame; return False when there is no room: the caller still owns the payload."""
        ring, start = self._ring, self._written
        size = len(payload)
        needed = frame_bytes(size)
        assert size <= FRAME_BYTES_LIMIT
        assert needed <= ring.ring_bytes // 2, "a frame is at most half a ring, or padding could lock it"
        index = start & (ring.ring_bytes - 1)
        tail = ring.ring_bytes - index
        padding = tail if tail < needed else 0
        if padding + needed > ring.ring_bytes - (start - int(ring.words[RELEASED])):
            return False
        if padding:
            self._put_header(start, PADDING)
            start += padding
            index = 0
        ring.data[index + HEADER_BYTES : index + HEADER_BYTES + size] = payload
        self._put_header(start, size | zlib.crc32(payload, start & _LOW) << 32)
        self._written = start + needed
        ring.words[WRITTEN] = self._written
        return True

    def _put_header(self, position: int, word: int) -> None:
        at = (position & (self._ring.ring_bytes - 1)) >> 3
        self._ring.data_words[at] = position + 1
        if self._ring.ring_bytes - (at << 3) >= HEADER_BYTES:
            self._ring.data_words[at + 1] = word


class RingReader:
    """The reading end."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._read = ring.released
        ring.words[READ] = self._read

    def read(self) -> tuple[bytes, int] | None:
        """Return the next payload (a copy) and its frame's end position; None when there is none.

        Raises `RingCorrupted` when a frame stays wrong.
        """
        ring = self._ring
        while self._read != int(ring.words[WRITTEN]):
            frame = self._frame(self._read)
            payload, self._read = frame
            ring.words[READ] = self._read
            if payload is not None:
                return payload, self._read
        return None

    def release(self, position: int) -> None:
        """Give back everything before this position: it is settled."""
        assert self._ring.released <= position <= self._read
        self._ring.words[RELEASED] = position

    def _frame(self, position: int) -> tuple[bytes | None, int]:
        for _ in range(REREADS_MAX):
            frame = self._look(position)
            if frame is not None:
                return frame
            time.sleep(REREAD_S)
        raise RingCorrupted(f"the frame at position {position} does not match its header")

    def _look(self, position: int) -> tuple[bytes | None, int] | None:
        """Return the payload (None for padding) and the end; None where the bytes do not match (yet)."""
        ring = self._ring
        index = position & (ring.ring_bytes - 1)
        tail = ring.ring_bytes - index
        at = index >> 3
        if int(ring.data_words[at]) != position + 1:
            return None
        if tail < HEADER_BYTES:
            return None, position + tail
        word = int(ring.data_words[at + 1])
        size = word & _LOW
        if word == PADDING:
            return None, position + tail
        if size > tail - HEADER_BYTES:
            return None
        payload = bytes(ring.data[index + HEADER_BYTES : index + HEADER_BYTES + size])
        if zlib.crc32(payload, position & _LOW) != word >> 32:
            return None
        return payload, position + frame_bytes(size)


class RingSet:
    """The rings of all shards and invokers in one anonymous shared mapping.

    It is made before the fork, has no name, and vanishes with the last process: nothing leaks after a crash.
    """

    def __init__(self, shards: int, invokers: int, ring_bytes: int) -> None:
        assert shards > 0
        assert invokers > 0
        self._invokers = invokers
        self._stride = Ring.bytes_needed(ring_bytes)
        self._ring_bytes = ring_bytes
        self._memory = mmap.mmap(-1, shards * invokers * self._stride)

    def ring(self, shard: int, invoker: int) -> Ring:
        """Return the ring from this shard to this invoker."""
        start = (shard * self._invokers + invoker) * self._stride
        return Ring(memoryview(self._memory)[start : start + self._stride], self._ring_bytes)
