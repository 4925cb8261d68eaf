"""What the engine says of itself: keyed, levelled, without secrets."""

from __future__ import annotations

import io
import json
import sys

import pytest

from engine.config import LogSettings
from engine.lifecycle import ChildLink, Drain, SetLogLevel, channel_pair
from engine.observe import logs
from engine.observe.repeats import KINDS_MAX, Repeats
from engine.ring.counters import Board


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


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The moment that counts for repeats: the last of these."""
    moments = [1_000_000]
    monkeypatch.setattr("engine.observe.logs.monotonic_ms", lambda: moments[-1])
    return moments


def test_faults_that_repeat_are_counted(clock: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    """Ten of a kind are written, the others counted in a line of their own once the time is over; other kinds, and what
    is no fault, are not held back.
    """
    logs.configure(LogSettings(format="json"), "invoker 1/1")
    log = logs.get_logger("engine.delivery.x")
    for number in range(100):
        log.warning("invocation_failed", route="carts", failure="timeout", attempt=number)
    log.warning("invocation_failed", route="orders", failure="timeout")
    for _ in range(20):
        log.info("routine")
    said = lines(capsys)
    assert [one["route"] for one in said if one["event"] == "invocation_failed"] == ["carts"] * 10 + ["orders"]
    assert sum(one["event"] == "routine" for one in said) == 20
    logs.flush()
    assert lines(capsys) == []
    clock.append(clock[-1] + 10_000)
    logs.flush()
    (summary,) = lines(capsys)
    assert (summary["event"], summary["repeated"], summary["level"]) == ("invocation_failed", 90, "warning")
    assert (summary["route"], summary["failure"], summary["module"]) == ("carts", "timeout", "delivery.x")
    log.warning("invocation_failed", route="carts", failure="timeout")
    assert len(lines(capsys)) == 1


def test_every_line_where_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    """With repeats_max = 0 nothing is left out."""
    logs.configure(LogSettings(format="json", repeats_max=0), "invoker 1/1")
    for _ in range(100):
        logs.get_logger(__name__).error("failed")
    assert len(lines(capsys)) == 100


def test_keys_are_named_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of keys are in a line at debug, or where the settings ask for them."""
    for settings, is_named in [({}, False), ({"keys": True}, True), ({"level": "debug"}, True)]:
        logs.configure(LogSettings(format="json", **settings), "invoker 1/1")
        logs.get_logger(__name__).warning("failed", such_as=["cart:7"], records=1)
        (line,) = lines(capsys)
        assert line["records"] == 1
        assert ("such_as" in line) is is_named


def test_functions_are_quoted_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """A line says what a function said at debug, or where the settings ask for it; else the reason without that."""
    for settings, is_quoted in [({}, False), ({"function_errors": True}, True), ({"level": "debug"}, True)]:
        logs.configure(LogSettings(format="json", **settings), "invoker 1/1")
        logs.get_logger(__name__).warning("failed", reason="ValueError", function_said="ValueError: two")
        (line,) = lines(capsys)
        assert line["reason"] == ("ValueError: two" if is_quoted else "ValueError")
        assert "function_said" not in line


def test_the_level_changes_while_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A logger that was made before obeys the new level at once; the process is still named; back is the settings'."""
    logs.configure(LogSettings(format="json", level="warning"), "supervisor")
    log = logs.get_logger(__name__)
    log.debug("unheard")
    try:
        logs.switch_level()
        log.debug("heard")
        logs.switch_level()
        log.info("unheard again")
    finally:
        logs.set_level("")
    said = lines(capsys)
    assert [one["event"] for one in said] == ["log_level", "heard", "log_level"]
    assert {one["process"] for one in said} == {"supervisor"}
    assert (said[0]["now"], said[2]["now"]) == ("debug", "warning")


def test_a_child_is_told_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    """What a supervisor says of the level is obeyed when a child looks for commands, and is no command of its own."""
    logs.configure(LogSettings(format="json"), "invoker 1/1")
    ours, theirs = channel_pair()
    link = ChildLink(theirs, Board(1).row(0))
    try:
        ours.send(SetLogLevel("debug"))
        ours.send(Drain())
        assert link.commands() == [Drain()]
        logs.get_logger(__name__).debug("heard")
        assert [one["event"] for one in lines(capsys)] == ["heard"]
    finally:
        logs.set_level("")
        ours.close()
        theirs.close()


def test_kinds_are_bounded() -> None:
    """However many kinds there are, memory is not; what is forgotten is not counted twice."""
    repeats = Repeats(1, 10)
    for number in range(3 * KINDS_MAX):
        repeats.take(number, 0)
        repeats.take(number, 0)
    assert repeats.left_out == KINDS_MAX
    assert len(repeats.ended(10)) == KINDS_MAX
    assert repeats.left_out == 0
