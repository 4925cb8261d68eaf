"""How much of a ring is settled: frames in order, and how many keys of each are still open.  (pure)

A key that waits in a lane holds the *oldest* frame that mentions it. Newer events of the same key merge into
the waiting entry and hold nothing of their own: the ring is released in order, so no newer frame can be
released before the older one, and the one delivery settles them all.
"""

from __future__ import annotations

from collections import deque

from engine.model import Watermark


class Frame:
    """A frame of a ring that was read: where it ends, how many entries still hold it, and which watermarks it is."""

    __slots__ = ("end", "open", "watermarks")

    def __init__(self, end: int, watermarks: tuple[Watermark, ...] = ()) -> None:
        self.end = end
        self.open = 0
        self.watermarks = watermarks


DURABLE = Frame(0)
"""What an entry holds instead of a frame once the backlog has it on disk: no ring waits for it."""


class Ledger:
    """The frames of one ring between *released* and *read*, oldest first."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._passed: dict[int, Watermark] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, end: int, watermarks: tuple[Watermark, ...] = ()) -> Frame:
        """Note a frame that ends at this position; positions only grow."""
        assert not self._frames or end > self._frames[-1].end
        frame = Frame(end, watermarks)
        self._frames.append(frame)
        return frame

    def settled(self) -> int | None:
        """Forget the leading frames that nothing holds; return the last one's end, None if none was."""
        frames = self._frames
        end: int | None = None
        while frames and not frames[0].open:
            assert frames[0].open == 0
            frame = frames.popleft()
            end = frame.end
            for watermark in frame.watermarks:
                self._passed[watermark.node] = watermark
        return end

    def take_watermarks(self) -> tuple[Watermark, ...]:
        """Return the newest of each node before which nothing is open, among those that `settled` has passed since."""
        if not self._passed:
            return ()
        passed = tuple(self._passed.values())
        self._passed.clear()
        return passed
