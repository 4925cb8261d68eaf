"""The guide for a first function: its commands are run as they stand, and what it says comes about."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.support import WAIT_S, wait_for

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "try-your-function.md").read_text()
ENGINE = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m engine "$@"\n'
CLIENT = f"""#!{sys.executable}
import sys, redis
assert sys.argv[1] == "-u"
print(redis.Redis.from_url(sys.argv[2]).execute_command(*sys.argv[3:]))
"""
"""Stands for redis-cli, which is not everywhere."""


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)


class Terminal:
    """A shell's folder and variables, with the two commands on its path."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("engine", ENGINE), ("redis-cli", CLIENT)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        ours = ("ENGINE_", "REDIS_", "AWS_")
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.variables |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.folder = folder

    def run(self, commands: str) -> str:
        """Run these; return what they print. The first that fails fails the test."""
        shell = ["/bin/sh", "-ec", commands]
        done = subprocess.run(
            shell, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=WAIT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_guide(tmp_path: Path) -> None:
    """A function of one's own runs, raises, leaves a dead letter, is mended, and gets the key again."""
    write, ask, run, change, look, mend = blocks()
    terminal = Terminal(tmp_path)
    terminal.run(write)
    terminal.folder = tmp_path / "trial"
    assert "→ carts to carts, by cart:*" in terminal.run(ask)
    ports = "--redis-port 0 --dynamodb-port 0 --lambda-port 0"
    sandbox = subprocess.Popen(
        ["/bin/sh", "-ec", run.replace("engine sandbox", f"exec engine sandbox {ports}")],
        cwd=terminal.folder,
        env=terminal.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    assert sandbox.stdout is not None and sandbox.stderr is not None
    stderr = sandbox.stderr
    reader = threading.Thread(target=lambda: said.extend(iter(stderr.readline, "")), daemon=True)
    reader.start()
    try:
        for line in iter(sandbox.stdout.readline, ""):
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                terminal.variables[name] = "".join(shlex.split(value))
            if line.startswith("Ctrl-C"):
                break
        terminal.run(change)
        both = ("cart:7 hset holds 3", "ValueError: invalid literal for int()")
        wait_for(lambda: all(one in "".join(said) for one in both), "both carts")
        letters = Path(terminal.variables["ENGINE_DELIVERY_DEAD_LETTER_FILE"])
        wait_for(lambda: letters.exists() and "cart:8" in letters.read_text(), "the dead letter")
        shown = ("last error of carts", "invalid literal for int()", "1 dead letter in the last minute")
        wait_for(lambda: all(one in terminal.run("engine status") for one in shown), "status has heard of it")
        assert "cart:8" in terminal.run(look)
        edit, redrive = mend.splitlines()
        terminal.run(edit)
        wait_for(lambda: any("carts.py changed: imported again" in line for line in said), "the edit is noticed")
        terminal.run(redrive)
        wait_for(lambda: any("cart:8 repair holds 0" in line for line in said), "the mended cart")
        wait_for(lambda: not letters.exists() or "cart:8" not in letters.read_text(), "the letter is removed")
        sandbox.send_signal(signal.SIGINT)
        assert sandbox.wait(WAIT_S) == 0, "".join(said)
    finally:
        sandbox.kill()
        sandbox.wait()
        reader.join(WAIT_S)
        sandbox.stdout.close()
        stderr.close()
