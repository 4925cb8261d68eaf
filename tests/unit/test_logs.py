"""What the engine says of itself: keyed, levelled, without secrets."""

from __future__ import annotations

import io
import json
import sys

import pytest

from engine.config import LogSettings
from engine.observe import logs


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON a line is an object with event, level, time, process and module."""
    logs.configure(LogSettings(format="json"), "subscriber 2/4")
    logs.get_logger("engine.capture.subscriber").warning("gap", shard=2)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "gap",
        "level": "warning",
        "process": "subscriber 2/4",
        "module": "capture.subscriber",
        "shard": 2,
    }


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """What lies below the level is not said."""
    logs.configure(LogSettings(level="warning"), "supervisor")
    log = logs.get_logger(__name__)
    log.info("unheard")
    log.error("heard", n=1)
    said = capsys.readouterr().err
    assert "unheard" not in said
    assert "heard" in said and "n=1" in said


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_credentials(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """A URL in an error's text loses its user and password."""
    logs.configure(LogSettings(format="json" if style == "json" else "text"), "supervisor")
    logs.get_logger(__name__).error("lost", error="cannot reach redis://me:hunter2@example.test:6379/0")
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "redis://***@example.test:6379/0" in said


def test_a_closed_stderr_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging where nobody listens any more raises nothing."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(LogSettings(), "supervisor")
    stream.close()
    logs.get_logger(__name__).error("unheard")
