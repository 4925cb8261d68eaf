from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from engine.model import Watermark
from engine.ring.ring import RingSet
from engine.ring.wake import Wake

FRAMES = 5_000
WAIT_S = 60.0
REPORT_BYTES = 64
"""Of a reader's report: a pipe then holds about 1,000, and no reader is further ahead of its test."""


WATCHED = (0, 1, 255)
Fork = Callable[[Callable[[], None]], int]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Yield a fork that runs a function in a child; children that are left at the end are killed."""
    pids: list[int] = []

    def start(main: Callable[[], None]) -> int:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                main()
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        # A child that a test has waited for is no longer ours to kill.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def payload_of(number: int) -> bytes:
    return number.to_bytes(8, "little") * (1 + number % 40)


def write_from(rings: RingSet, wake: Wake, next_number: Callable[[], int]) -> None:
    writer = rings.ring(0, 0).writer()
    number = next_number()
    while number < FRAMES:
        if writer.offer(payload_of(number)):
            wake.signal()
            number += 1
        else:
            time.sleep(0.0001)


def test_every_frame_crosses_between_processes(fork: Fork) -> None:
    """A small ring that is often full hands over every frame, in order, with wake-ups alone."""
    rings, wake = RingSet(1, 1, 4_096), Wake()
    pid = fork(lambda: write_from(rings, wake, lambda: 0))
    reader = rings.ring(0, 0).reader()
    expected, deadline = 0, time.monotonic() + WAIT_S
    while expected < FRAMES:
        assert time.monotonic() < deadline, f"stuck at frame {expected}"
        assert select.select([wake], [], [], WAIT_S)[0], "a wake-up was lost"
        wake.clear()
        while (frame := reader.read()) is not None:
            assert frame[0] == payload_of(expected)
            reader.release(frame[1])
            expected += 1
    os.waitpid(pid, 0)


def test_a_killed_writer_tears_nothing(fork: Fork) -> None:
    """Writers are killed at random moments; the reader sees whole frames in order, each once."""
    rings, wake = RingSet(1, 1, 4_096), Wake()
    reader = rings.ring(0, 0).reader()
    expected, kills, deadline = 0, 0, time.monotonic() + WAIT_S
    pid = fork(lambda: write_from(rings, wake, lambda: 0))
    next_kill = 200
    while expected < FRAMES:
        assert time.monotonic() < deadline, f"stuck at frame {expected}"
        frame = reader.read()
        if frame is not None:
            assert frame[0] == payload_of(expected)
            reader.release(frame[1])
            expected += 1
        if expected >= next_kill and expected < FRAMES - 200:
            next_kill += 400
            kill(pid)
            kills += 1
            while (frame := reader.read()) is not None:
                assert frame[0] == payload_of(expected)
                reader.release(frame[1])
                expected += 1
            first = expected
            pid = fork(lambda first=first: write_from(rings, wake, lambda: first))  # type: ignore[misc]
    os.waitpid(pid, 0)
    assert kills >= 5


def test_killed_readers_lose_nothing(fork: Fork) -> None:
    """Readers are killed while a writer goes on; each successor begins at what was not settled, and none is lost."""
    rings, wake = RingSet(1, 1, 4_096), Wake()
    ring = rings.ring(0, 0)
    seen_r, seen_w = os.pipe()

    def read_and_settle() -> None:
        """Settle a few frames late, so that a kill finds some that were read and not settled."""
        reader = ring.reader()
        ends: deque[int] = deque()
        while True:
            wake.clear()
            while (frame := reader.read()) is not None:
                number = int.from_bytes(frame[0][:8], "little")
                assert frame[0] == payload_of(number)
                os.write(seen_w, number.to_bytes(REPORT_BYTES, "little"))
                ends.append(frame[1])
                if len(ends) > 3:
                    reader.release(ends.popleft())
            select.select([wake], [], [])

    fork(lambda: write_from(rings, wake, lambda: 0))
    pid, kills, expected, again = fork(read_and_settle), 0, 0, 0
    next_kill = 200
    while expected < FRAMES:
        assert select.select([seen_r], [], [], WAIT_S)[0], f"stuck at frame {expected}"
        number = int.from_bytes(os.read(seen_r, REPORT_BYTES), "little")
        assert number <= expected, f"frame {expected} was skipped"
        again += number < expected
        expected = max(expected, number + 1)
        if expected >= next_kill and kills < 7:
            next_kill += 400
            kill(pid)
            pid, kills = fork(read_and_settle), kills + 1
    kill(pid)
    os.close(seen_r)
    os.close(seen_w)
    wake.close()
    assert kills == 7
    assert again, "what was not settled was not read again"


def test_a_killed_reader_leaves_no_watermark_of_two_moments(fork: Fork) -> None:
    """Whenever a reader dies, and whoever looks meanwhile: each node's mark and version are those of its moment, or of
    none, and no later ones.
    """
    ring = RingSet(1, 1, 4_096).ring(0, 0)

    def set_watermarks() -> None:
        reader, moment_ms = ring.reader(), max(ring.watermark(node).moment_ms for node in WATCHED)
        while True:
            moment_ms += 1
            for node in WATCHED:
                reader.set_watermark(Watermark(moment_ms, moment_ms, node, moment_ms))

    seen = dict.fromkeys(WATCHED, 0)
    for _ in range(10):
        pid, goal = fork(set_watermarks), max(seen.values()) + 200
        deadline = time.monotonic() + WAIT_S
        while max(seen.values()) < goal:
            assert time.monotonic() < deadline, "no watermark comes"
            for node in WATCHED:
                watermark = ring.watermark(node)
                assert watermark.node == node
                assert watermark.server_mark in (0, watermark.moment_ms)
                assert watermark.version <= watermark.moment_ms
                assert watermark.moment_ms >= seen[node]
                seen[node] = watermark.moment_ms
        kill(pid)
