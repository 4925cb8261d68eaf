"""Whether events still come, as canaries tell: without a server."""

from __future__ import annotations

from engine.capture.feed.canary import EVERY_MS, Canary
from engine.capture.notifications import canary_event, canary_letters

FLAGS = "Kgxh$"


def sent(canary: Canary, moment_ms: int = 0) -> None:
    """Have canaries written, taken by the server, and a ping sent after them."""
    assert canary.is_due(moment_ms)
    canary.commands(moment_ms)
    canary.taken("")
    canary.pinged()


def test_events_that_do_not_come_are_missed() -> None:
    """A pong without the canary's events before it verifies nothing, and says which ones are missing."""
    canary = Canary(0, FLAGS)
    events = [canary_event(letter) for letter in canary_letters(FLAGS)]
    assert events
    sent(canary)
    for event in events[1:]:
        canary.heard(event.encode())
    assert canary.ponged() == events[0]
    assert not canary.is_verified


def test_events_that_come_verify() -> None:
    """Once all have come before the pong, a watermark may count; each time anew."""
    canary = Canary(0, FLAGS)
    for turn in range(2):
        sent(canary, turn * EVERY_MS)
        for letter in canary_letters(FLAGS):
            canary.heard(canary_event(letter).encode())
        assert canary.ponged() == ""
        assert canary.is_verified


def test_a_pong_before_the_server_took_them_proves_nothing() -> None:
    """Events are awaited only by a ping that follows the server's answer: an earlier pong says nothing."""
    canary = Canary(0, FLAGS)
    canary.commands(0)
    canary.pinged()
    assert canary.ponged() == ""
    assert not canary.is_verified
