"""Dirty keys → frames → rings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from engine.capture.dirty import DirtyKeys
from engine.config import RingSettings
from engine.model import Change
from engine.ring.codec import encode_changes
from engine.ring.counters import Counter, StatusRow
from engine.ring.ring import RingWriter
from engine.ring.wake import Wake


class Flusher:
    """Writes each invoker's dirty keys to its ring; what a full ring refuses stays dirty."""

    def __init__(
        self, writers: Sequence[RingWriter], wakes: Sequence[Wake], ring: RingSettings, row: StatusRow
    ) -> None:
        assert len(writers) == len(wakes)
        self._ends = tuple(zip(writers, wakes, strict=True))
        self._ring = ring
        self._row = row

    def flush(self, dirty: DirtyKeys) -> bool:
        """Write what there is room for; return True when nothing is left dirty."""
        done = True
        for bucket, (writer, wake) in zip(dirty.buckets, self._ends, strict=True):
            if not bucket:
                continue
            before = writer.written
            done &= self._write(bucket, writer)
            if writer.written != before:
                wake.signal()
        return done

    def _write(self, bucket: dict[bytes, Change], writer: RingWriter) -> bool:
        row, size_max = self._row, self._ring.frame_events_max
        while bucket:
            changes = list(islice(bucket.values(), size_max))
            payload = encode_changes(changes)
            while len(payload) > self._ring.frame_bytes_max and len(changes) > 1:
                changes = changes[: len(changes) // 2]
                payload = encode_changes(changes)
            if not writer.offer(payload):
                row.add(Counter.RING_FULL, 1)
                return False
            row.add(Counter.FRAMES_WRITTEN, 1)
            row.add(Counter.CHANGES_WRITTEN, len(changes))
            if len(changes) == len(bucket):
                bucket.clear()
            else:
                for change in changes:
                    del bucket[change.key]
        return True
