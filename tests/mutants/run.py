"""Breaks a line in a copy of the project, and runs the tests that must notice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant

TESTS_S_MAX = 240.0
"""A mutant may make a test wait for what never comes: this long, and it counts as noticed."""
_COPIED = ("engine", "lambdas", "benchmarks", "tests", "config", "docs")
_TESTS_FAILED = 1
_TESTS_PASSED = 0


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    INVALID = "invalid"
    """The tests did not run: nothing is proved."""


@dataclass(frozen=True, slots=True)
class Result:
    """A mutant's fate, and the last words of the tests."""

    mutant: Mutant
    fate: Fate
    words: str
    took_s: float


class Copy:
    """A copy of the project in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, folder / path.name)

    def play(self, mutant: Mutant) -> Result:
        """Break the line, run the tests, mend the line."""
        started = time.monotonic()
        if problem := mutant.problem(self.folder):
            return Result(mutant, Fate.INVALID, problem, 0.0)
        path = self.folder / mutant.file
        whole = path.read_text()
        path.write_text(mutant.broken_text(whole))
        try:
            compile(path.read_text(), str(path), "exec")
            status, words = self.run_tests(mutant.tests)
        except SyntaxError as error:
            status, words = -1, f"the broken line is no Python: {error}"
        finally:
            path.write_text(whole)
        fates = {_TESTS_FAILED: Fate.KILLED, _TESTS_PASSED: Fate.SURVIVED}
        return Result(mutant, fates.get(status, Fate.INVALID), words, time.monotonic() - started)

    def run_tests(self, tests: tuple[str, ...]) -> tuple[int, str]:
        """Return pytest's exit status, and its last lines; a run past its time has failed."""
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=TESTS_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return _TESTS_FAILED, f"not over after {TESTS_S_MAX:g} s"
        lines = [line for line in output.splitlines() if line.strip()]
        # What was skipped, or never collected, noticed nothing.
        if process.returncode == _TESTS_PASSED and not any(" passed" in line for line in lines[-3:]):
            return -1, "no test ran: " + " · ".join(lines[-2:])
        return process.returncode, " · ".join(lines[-2:])
