"""Dirty keys → frames of runs → rings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from engine.capture.dirty import DirtyKeys
from engine.capture.traced import Marker
from engine.config import RingSettings
from engine.model import Change, Run, Watermark
from engine.ring.codec import CHANGE_BYTES_MAX, encode_runs, encode_watermarks
from engine.ring.counters import Counter, StatusRow
from engine.ring.ring import RingWriter
from engine.ring.wake import Wake

_FRAMES_A_TAKE = 64
"""How many frames are made before the dirty set is touched again: finding its first key can mean a long walk."""


def runs_of(keys: Sequence[bytes], changes: Sequence[Change]) -> list[Run]:
    """Return these keys as runs, one for all that share a change, in the order of arrival; ``changes`` are by key."""
    runs: dict[int, Run] = {}
    last: Change | None = None
    add: Callable[[bytes], None]
    for key, change in zip(keys, changes, strict=True):
        if change is not last:
            last, run = change, runs.get(id(change))
            if run is None:
                run = runs[id(change)] = Run(
                    change.event, change.routes, change.captured_ms, [], change.events, change.trace
                )
            add = run.keys.append
        add(key)
    return list(runs.values())


class Flusher:
    """Writes each invoker's dirty keys to its ring; what a full ring refuses stays dirty."""

    def __init__(
        self,
        writers: Sequence[RingWriter],
        wakes: Sequence[Wake],
        ring: RingSettings,
        row: StatusRow,
        marker: Marker | None = None,
    ) -> None:
        assert len(writers) == len(wakes) > 0
        self._writers = tuple(writers)
        self._wakes = tuple(wakes)
        self._ring = ring
        self._row = row
        self._marker = marker
        # Where the reader had come to when its ring refused a frame; until it moves, no frame is worth making.
        self._stuck_at: list[int | None] = [None] * len(writers)

    def flush(self, dirty: DirtyKeys) -> bool:
        """Write what fits, wake each invoker once; return True when nothing is left dirty."""
        is_done = True
        for invoker, bucket in enumerate(dirty.buckets):
            if not bucket:
                continue
            if self._stuck_at[invoker] != self._writers[invoker].released and self._write(dirty, invoker):
                self._wakes[invoker].signal()
            is_done = is_done and not dirty.buckets[invoker]
        return is_done

    def mark(self, watermarks: Sequence[Watermark]) -> bool:
        """Write watermarks, one per node, into every ring, behind its content; return False if a ring is full.

        Then some rings get them twice in the end, which is harmless.
        """
        payloads = self._in_frames(watermarks)
        refused = [writer for writer in self._writers if not all(writer.offer(payload) for payload in payloads)]
        if refused:
            return False
        for wake in self._wakes:
            wake.signal()
        return True

    def _in_frames(self, watermarks: Sequence[Watermark]) -> list[bytes]:
        """Return as few payloads as hold them."""
        at_once = max(1, self._ring.frame_bytes_max // CHANGE_BYTES_MAX)
        return [encode_watermarks(watermarks[at : at + at_once]) for at in range(0, len(watermarks), at_once)]

    def _write(self, dirty: DirtyKeys, invoker: int) -> int:
        """Write frames until nothing is left or the ring is full; return how many."""
        writer, frames = self._writers[invoker], 0
        self._stuck_at[invoker] = None
        while self._stuck_at[invoker] is None and dirty.buckets[invoker]:
            bucket, count = dirty.buckets[invoker], _FRAMES_A_TAKE * self._ring.frame_events_max
            keys, changes = list(islice(bucket, count)), list(islice(bucket.values(), count))
            if self._marker is not None:
                self._marker.mark(changes)
            written = 0
            while written < len(keys):
                end = self._cut(keys, written, has_long=dirty.long_bytes[invoker] > 0)
                payload = encode_runs(runs_of(keys[written:end], changes[written:end]))
                while len(payload) > self._ring.frame_bytes_max:
                    if end - written == 1:
                        # Without its events it fits: capture.key_bytes_max is checked against ring.frame_bytes_max.
                        assert changes[written].events
                        changes[written] = dirty.coalesce(invoker, keys[written])
                    end = (written + end + 1) // 2
                    payload = encode_runs(runs_of(keys[written:end], changes[written:end]))
                # Before the offer: a release in between only means one more try.
                released = writer.released
                if not writer.offer(payload):
                    self._stuck_at[invoker] = released
                    self._row.add(Counter.RING_FULL, 1)
                    break
                frames += 1
                written = end
            dirty.remove(invoker, keys[:written] if written < len(keys) else keys)
            self._row.add(Counter.CHANGES_WRITTEN, written)
        self._row.add(Counter.FRAMES_WRITTEN, frames)
        return frames

    def _cut(self, keys: list[bytes], start: int, *, has_long: bool) -> int:
        """Return where the next frame's keys end; with long ones among them, no more than fit."""
        end = min(len(keys), start + self._ring.frame_events_max)
        if not has_long:
            return end
        size = 0
        for index in range(start, end):
            size += len(keys[index]) + CHANGE_BYTES_MAX
            if size > self._ring.frame_bytes_max and index > start:
                return index
        return end
