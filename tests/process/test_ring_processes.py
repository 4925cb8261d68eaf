from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from engine.ring.ring import RingSet
from engine.ring.wake import Wake

FRAMES = 5_000
WAIT_S = 60.0


def fork(main: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            main()
        finally:
            os._exit(0)
    return pid


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


def test_every_frame_crosses_between_processes() -> None:
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


def test_a_killed_writer_tears_nothing() -> None:
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
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            while (frame := reader.read()) is not None:
                assert frame[0] == payload_of(expected)
                reader.release(frame[1])
                expected += 1
            first = expected
            pid = fork(lambda first=first: write_from(rings, wake, lambda: first))  # type: ignore[misc]
    os.waitpid(pid, 0)
    assert kills >= 5


def test_a_killed_reader_is_read_again_from_released() -> None:
    """What a killed reader had read but not settled is read again by the next; nothing is lost."""
    rings = RingSet(1, 1, 1 << 20)
    ring = rings.ring(0, 0)
    writer = ring.writer()
    for number in range(1_000):
        assert writer.offer(payload_of(number))
    settled_r, settled_w = os.pipe()

    def read_and_settle_some() -> None:
        reader = ring.reader()
        for number in range(600):
            frame = reader.read()
            assert frame is not None
            if number < 300:
                reader.release(frame[1])
        os.write(settled_w, b"x")
        signal.pause()

    pid = fork(read_and_settle_some)
    assert os.read(settled_r, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reader = ring.reader()
    seen = []
    while (frame := reader.read()) is not None:
        seen.append(frame[0])
    assert seen == [payload_of(number) for number in range(300, 1_000)]


def test_a_signal_before_the_wait_is_not_lost() -> None:
    """Signals collapse into one flag, which stays set until it is cleared."""
    wake = Wake()
    assert not select.select([wake], [], [], 0)[0]
    for _ in range(100_000):
        wake.signal()
    assert select.select([wake], [], [], 0)[0]
    wake.clear()
    assert not select.select([wake], [], [], 0)[0]
    wake.signal()
    assert select.select([wake], [], [], 0)[0]
    wake.close()
