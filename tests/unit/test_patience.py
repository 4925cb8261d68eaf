"""An audit that meets trouble slows down, goes on, and says how far it is."""

from __future__ import annotations

from engine.audit.progress import LINE_EVERY_S, Lines
from engine.destination.patience import DELAY_S_MAX, Patience


def test_trouble_slows_all_reads_and_answers_speed_them_up_again() -> None:
    """Each failure doubles the wait before every read, up to a bound; answers take it away."""
    waits: list[float] = []
    patience = Patience(1_000, sleep=waits.append)
    patience.pause()
    assert waits == []
    for _ in range(20):
        assert patience.is_left(patience.now_s(), "slow")
        patience.pause()
    assert waits == sorted(waits[:5]) + waits[5:]
    assert DELAY_S_MAX / 2 <= waits[-1] <= DELAY_S_MAX
    for _ in range(30):
        patience.answered()
    waits.clear()
    patience.pause()
    assert waits == []


def test_only_silence_is_given_up() -> None:
    """One answer in between begins the patience anew; a table that answers nothing for so long has none left."""
    now_s = 0.0
    told: list[str] = []
    patience = Patience(60, tell=told.append, sleep=lambda s: None, clock=lambda: now_s)
    for _ in range(5):
        assert patience.is_left(now_s, "slow")
        now_s += 59
        patience.answered()
    began_s = now_s
    assert patience.is_left(began_s, "slow")
    now_s += 60
    assert not patience.is_left(now_s, "slow")
    assert told[0].startswith("slow; slowing down, retrying in 0.")


def test_lines_in_a_pipe_are_a_few_seconds_apart() -> None:
    """Progress in a pipe is a line now and then with what is done of how much; a quick audit says nothing."""
    now_s = 100.0
    said: list[str] = []
    lines = Lines(said.append, lambda: now_s)
    for _ in range(40):
        lines("comparing keys", 500, 44_000)
        now_s += 1
    assert len(said) == 40 // LINE_EVERY_S - 1
    assert said[0] == "engine: audit: comparing keys: 3,000 of 44,000 (5 s)"
    now_s += LINE_EVERY_S
    lines("the table is slow", 0, None)
    assert said[-1].startswith("engine: audit: the table is slow (")
