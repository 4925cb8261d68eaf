"""A ring of frames in shared memory: one writer process, one reader process, either of which may be killed at any time.

**Positions.** *written*, *read* and *released* are byte counts that only grow; each has one writer. The writer
stores a frame first and *written* last. The reader copies a payload out, and moves *released* only when all of it
is settled; a replaced reader begins again at *released*, so every frame is seen at least once. A replaced writer
begins at *written*: what its predecessor left half done is beyond that and was never visible.

**Frames, in memory's order.** Python has no fences. x86-64 makes stores visible in program order and keeps loads in
order, so a reader that sees *written* sees the frame. Arm promises neither: behind a new *written*, any word of the
frame may still be what an older lap left, or zero. So nothing is believed just because it is there:

- the first header word is the frame's own absolute position, which no older lap can have written;
- the second holds length and check. The check starts from the position, so an old length, an old padding mark or a
  zero under a new position never fits, not even together with the old payload that it once described;
- a payload of old and new words mixed has to match 32 bits by chance.

What does not match is *not yet visible*: it is read again up to `REREADS_MAX` times, 0.1 s together, thousands of times
what a store takes to get through. Only then is it `RingCorrupted`. Only a valid frame or padding says where the next
one starts, so everything written by then is skipped (`RingReader.skip`), and is a gap.

**Room, in memory's order.** *released* must not be seen before the reader's copy is made, or the writer overwrites what
is still being read. Loads before a later store stay before it, also on Arm, where the store depends on them: the
checksum is computed over the copy, whose every byte came from a load of shared memory, and only the branch that it
decides leads to a store to *released*. On the other side the writer's stores to the data area depend on a branch on the
*released* that it loaded, and a processor makes no speculative store visible.

**What is left.** A match by chance: 1 in 2**32 for a payload that is caught half-visible, only on Arm. And *one*
writer, *one* reader: without compare-and-swap nothing here can refuse a second, so whoever replaces a process must
have reaped it before (`engine.supervision.children` forks a successor only then).
"""

from __future__ import annotations

import mmap
import time
import zlib

from engine.errors import EngineError
from engine.model import Watermark
from engine.ring.layout import (
    DATA_AT,
    FRAME_BYTES_LIMIT,
    HEADER_BYTES,
    LOW_HALF,
    MOMENT,
    PADDING,
    READ,
    RELEASED,
    SERVER_MARK,
    VERSION,
    WORD_BYTES,
    WRITTEN,
    entry_at,
    frame_bytes,
    is_power_of_two,
    seed,
)
from engine.ring.protection import make_read_only
from engine.routing.nodes import NODES_MAX

REREADS_MAX = 200
REREAD_S = 0.000_5


class RingCorrupted(EngineError):
    """A frame stayed wrong: memory was damaged, or a bug wrote there. Whoever reads it skips, and declares a gap."""


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
        """Return the memory that a ring of this capacity takes."""
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

    def watermark(self, node: int) -> Watermark:
        """Return the moment up to which all that the writer heard of this node is settled; 0 if none is known."""
        words, at = self.words, entry_at(node)
        version = int(words[at + VERSION])
        mark = int(words[at + SERVER_MARK])
        moment_ms = int(words[at + MOMENT])
        # A mark of another moment would be believed: it counts only if it was the same before and after.
        return Watermark(moment_ms, mark if mark == int(words[at + SERVER_MARK]) else 0, node, version)

    def writer(self) -> RingWriter:
        """Return a writer that continues where the last one stopped."""
        return RingWriter(self)

    def reader(self) -> RingReader:
        """Return a reader that begins at the first frame that is not settled."""
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

    def watermark(self, node: int) -> Watermark:
        """Return the newest watermark of this node that is settled."""
        return self._ring.watermark(node)

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
            self._put_header(start, PADDING | seed(start) << 32)
            start += padding
            index = 0
        ring.data[index + HEADER_BYTES : index + HEADER_BYTES + size] = payload
        self._put_header(start, size + 1 | zlib.crc32(payload, seed(start)) << 32)
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
        self.seen_until = ring.read
        """The position up to which a predecessor had read; what it did with those frames is unknown."""
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

    @property
    def ring_bytes(self) -> int:
        """Return the ring's capacity."""
        return self._ring.ring_bytes

    @property
    def used(self) -> int:
        """Return how many bytes are written and not released."""
        return self._ring.written - self._ring.released

    def skip(self) -> int:
        """Skip everything written: after a damaged frame, the start of the next one is unknown.

        Return the position where reading continues. Raises `RingCorrupted` if the positions are damaged too.
        """
        written = self._ring.written
        if not self._read <= written <= self._ring.released + self._ring.ring_bytes:
            raise RingCorrupted(f"a ring's writer can't be at position {written}, its reader is at {self._read}")
        self._ring.words[READ] = self._read = written
        return written

    def watermarks(self) -> dict[int, int]:
        """Return the moments that were set last, by node number, possibly by a predecessor."""
        moments = ((node, self._ring.watermark(node).moment_ms) for node in range(NODES_MAX))
        return {node: moment_ms for node, moment_ms in moments if moment_ms}

    def release(self, position: int) -> None:
        """Release everything before this position: it is settled."""
        assert self._ring.released <= position <= self._read
        self._ring.words[RELEASED] = position

    def set_watermark(self, watermark: Watermark) -> None:
        """Note up to which moment everything of a node is settled; the frames up to its own are released.

        A reader between two stores sees neither a mark of another moment nor a version newer than the moment.
        """
        words, at = self._ring.words, entry_at(watermark.node)
        words[at + SERVER_MARK] = 0
        words[at + MOMENT] = watermark.moment_ms
        words[at + SERVER_MARK] = watermark.server_mark
        words[at + VERSION] = watermark.version

    def _frame(self, position: int) -> tuple[bytes | None, int]:
        for _ in range(REREADS_MAX):
            frame = self._look(position)
            if frame is not None:
                return frame
            time.sleep(REREAD_S)
        at = (position & (self._ring.ring_bytes - 1)) >> 3
        found = " ".join(f"{word:#x}" for word in self._ring.data_words[at : at + HEADER_BYTES // WORD_BYTES])
        raise RingCorrupted(
            f"the frame at position {position} of a ring does not match its header ({found})",
            hint="shared memory is damaged: what the ring held is found by a scan; is the host's memory sound?",
        )

    def _look(self, position: int) -> tuple[bytes | None, int] | None:
        """Return the payload (None for padding) and the end; None if the bytes do not match (yet)."""
        ring = self._ring
        index = position & (ring.ring_bytes - 1)
        tail = ring.ring_bytes - index
        at = index >> 3
        if int(ring.data_words[at]) != position + 1:
            return None
        if tail < HEADER_BYTES:
            return None, position + tail
        word = int(ring.data_words[at + 1])
        check = seed(position)
        if word == PADDING | check << 32:
            return None, position + tail
        size = (word & LOW_HALF) - 1
        if not 0 <= size <= tail - HEADER_BYTES:
            return None
        payload = bytes(ring.data[index + HEADER_BYTES : index + HEADER_BYTES + size])
        if zlib.crc32(payload, check) != word >> 32:
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
        total_bytes = shards * invokers * self._stride
        try:
            self._memory = mmap.mmap(-1, total_bytes)
        except (OSError, OverflowError) as error:
            raise EngineError(
                f"no shared memory for {shards} shards × {invokers} invokers rings of {ring_bytes} bytes, "
                f"{total_bytes >> 20} MiB in all: {error}",
                hint="set ring.ring_bytes lower, or use fewer shards or invokers",
            ) from error

    def ring(self, shard: int, invoker: int) -> Ring:
        """Return the ring from this shard to this invoker."""
        start = (shard * self._invokers + invoker) * self._stride
        return Ring(memoryview(self._memory)[start : start + self._stride], self._ring_bytes)

    def make_read_only(self) -> None:
        """Make this process read-only from now on."""
        make_read_only(self._memory)
