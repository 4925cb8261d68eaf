"""Which cores what runs on: the application's machine and the engine's, on one that has both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.stand.errors import BenchmarkError


class NotApart(BenchmarkError):
    """This machine can't keep two things on cores of their own; the message says why."""


class Halves(NamedTuple):
    """Two sets of cores that have none in common."""

    near: frozenset[int]
    """The server's, and the application's."""
    far: frozenset[int]
    """The engine's, and what it delivers to."""


def halves() -> Halves:
    """Cut the cores that we may use in two; raise `NotApart`."""
    if not hasattr(os, "sched_setaffinity"):
        raise NotApart("this system does not let a process be kept on some of its cores")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise NotApart("there is only one core")
    middle = len(cores) // 2
    return Halves(frozenset(cores[:middle]), frozenset(cores[middle:]))


def keep_on(cores: frozenset[int], *pids: int) -> None:
    """Keep these processes, all that they have started, and every thread of theirs on some cores."""
    for pid in pids:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            # A thread that has just ended needs no core, and one that is started later has its maker's.
            with suppress(OSError):
                for thread in Path(f"/proc/{process.pid}/task").iterdir():
                    with suppress(OSError):
                        os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def ourselves_on(cores: frozenset[int]) -> Iterator[None]:
    """Keep this process on some cores until the block ends, and with it what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
