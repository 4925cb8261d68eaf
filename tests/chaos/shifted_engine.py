"""The engine with a wall clock that is off: ``python -m tests.chaos.shifted_engine CLOCK-FILE start …``.

The file holds one signed 64-bit number, by how many nanoseconds; the suite changes it while the engine runs. All
processes of the engine are forked from this one, and so share it. The monotonic clock goes on as ever, as it does on a
host whose clock is set.
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path


def shift(path: str) -> None:
    """Have ``time.time_ns`` and ``time.time`` add what the file says at that moment."""
    with Path(path).open("r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
    true_time_ns = time.time_ns
    time.time_ns = lambda: true_time_ns() + int(words[0])
    time.time = lambda: (true_time_ns() + int(words[0])) / 1e9


if __name__ == "__main__":
    shift(sys.argv[1])
    from engine.cli import run_command

    sys.exit(run_command(sys.argv[2:]))
