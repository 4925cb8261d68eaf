"""Keys and values are anybody's bytes: nowhere does one of them command the terminal that shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.config import LogSettings
from engine.observe import console, logs
from engine.text import shown

EVIL = "cart:\x1b]0;owned\x07\x1b[2J\x9b31m\u202e7"
"""Sets a title, clears the screen, turns red by a C1 control, and writes from right to left."""


def commands_in(text: str) -> list[str]:
    """Return all that a terminal might obey."""
    return [char for char in text if not char.isprintable() and char != "\n"]


def engine(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINE_", "AWS_"))}
    environment |= {"AWS_REGION": "us-east-1"}
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_errors(tmp_path: Path) -> None:
    """A name in the settings, or of a file, comes escaped in the error that quotes it, on one line."""
    named = engine("start", "--config", f"{EVIL}\n.toml", folder=tmp_path)
    assert named.returncode == 2
    (tmp_path / "engine.toml").write_text(f"[redis]\n{json.dumps(EVIL)} = 1\n")
    held = engine("start", folder=tmp_path)
    for said in (named.stderr, held.stderr):
        assert commands_in(said) == []
        assert "\\x1b]0;owned\\x07" in said
        assert all(line.startswith("engine: error: ") for line in said.splitlines())


def status_of(folder: Path) -> None:
    now_ms = int(time.time() * 1_000)
    route = {"slot": 0, "name": "carts", "function": "f", "keys": [EVIL], "events": ["hset"]}
    status = {
        "pid": os.getpid(), "version": "0", "started_at_ms": now_ms, "updated_at_ms": now_ms, "state": "ready",
        "routes": [route], "children": [], "totals": {},
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "engine.toml").write_text(
        '[supervision]\nstatus_file = "status.json"\n[[routes]]\nname="c"\nfunction="f"\n'
    )


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_status(tmp_path: Path, style: str) -> None:
    """Patterns are shown escaped in tables; in JSON too, where they still mean what they are."""
    status_of(tmp_path)
    done = engine("status", *(["--json"] if style == "json" else []), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert commands_in(done.stdout) == []
    if style == "json":
        assert json.loads(done.stdout)["routes"][0]["keys"] == [EVIL]
    else:
        assert "owned" in done.stdout


def rendered(view: Any) -> str:
    screen = Console(width=200)
    with screen.capture() as said:
        screen.print(view)
    return said.get()


def test_tables() -> None:
    """What a check, an audit, a redrive or held deletions show of names and keys is escaped."""
    deletion = {"route": EVIL, "gone": 1, "of": 2, "since_ms": 1, "choice": "", "kept": 0, "why": EVIL}
    finding = {"count": 1, "examples": [{"id": EVIL}]}
    audited = {
        **dict.fromkeys(("missing", "stale", "different", "extra", "unstorable", "unreadable"), finding),
        **dict.fromkeys(("compared", "items", "changing", "skipped", "foreign", "repaired", "unheard", "held"), 1),
        "route": EVIL, "destination": EVIL, "differences": 1, "is_extra_wrong": True,
    }  # fmt: skip
    views = [
        console.findings_view([("error", EVIL, EVIL, EVIL)]),
        console.audit_view({"routes": [audited]}),
        console.deletions_view([deletion]),
    ]
    for view in views:
        said = rendered(view)
        assert "owned" in said
        assert commands_in(said) == []


@pytest.mark.parametrize("value", [EVIL, f"a blank and {EVIL}", "two\nlines", "carriage\rreturn"])
def test_log_lines(capsys: pytest.CaptureFixture[str], value: str) -> None:
    """A value is one word on one line, whatever it holds; a list or an exception's text is no way around it."""
    logs.configure(LogSettings(level="debug"), "supervisor")
    log = logs.get_logger(__name__)
    log.warning("failed", key=value, keys=[value])
    try:
        raise ValueError(value)
    except ValueError:
        log.warning("crashed", exc_info=True)
    said = capsys.readouterr().err
    assert commands_in(said) == []
    assert said.splitlines()[0].count("\\") >= 2


def test_what_is_harmless_is_shown_as_it_is() -> None:
    """Letters of any script, signs and blanks stay; what does not print is named by its number."""
    text = "Zürich 購物車 🫖 [bold] \\ ' \""
    assert shown(text) == text
    assert shown("\x00\x7f\x85\u2028\ud800\U000e0041") == "\\x00\\x7f\\x85\\u2028\\ud800\\U000e0041"
