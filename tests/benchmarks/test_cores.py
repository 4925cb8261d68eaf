"""Two things on cores of their own: processes, their threads and what they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stand import cores
from benchmarks.stand.cores import NotApart, halves, keep_on, ourselves_on

needs_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core, or no affinity"
)
THREADED = "import sys, threading; threading.Thread(target=sys.stdin.read).start(); print('there', flush=True)"


@needs_cores
def test_a_process_is_kept_with_all_of_its_threads() -> None:
    """Every thread of a process runs on its half of the cores from then on, those that it had before too."""
    near, far = halves()
    assert near and far and not near & far
    with subprocess.Popen([sys.executable, "-c", THREADED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        keep_on(far, process.pid)
        threads = [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) == 2
        assert all(os.sched_getaffinity(thread) == far for thread in threads)
        process.communicate(b"")


@needs_cores
def test_what_is_started_meanwhile_has_our_cores() -> None:
    """Until the block ends we, and what we start, are kept on some cores; then we have all of ours again."""
    before = os.sched_getaffinity(0)
    near, _ = halves()
    script = "import os; print(sorted(os.sched_getaffinity(0)))"
    with ourselves_on(near):
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(sorted(near))
    assert os.sched_getaffinity(0) == before


def test_a_machine_of_one_core_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core can't be cut in two, and a system without affinity can't keep anything anywhere."""
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda *_: None, raising=False)
    with pytest.raises(NotApart, match="only one core"):
        halves()
    monkeypatch.delattr(cores.os, "sched_setaffinity")
    with pytest.raises(NotApart, match="does not let"):
        halves()
