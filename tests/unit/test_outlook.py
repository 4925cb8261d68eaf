from __future__ import annotations

from engine.capture.watch.outlook import Outlook
from engine.capture.watch.sight import Sight
from tests.looks import REPLICA, TIME_S, edited, look

FLAGS = "Khg"


def at(seconds: int, **answers: object) -> Sight:
    """Return a look so long after the first, on a server whose idle clock keeps step."""
    clock = edited("server", (f"lru_clock:{TIME_S % 2**24}", f"lru_clock:{(TIME_S + seconds) % 2**24}"))
    return look(TIME=[b"%d" % (TIME_S + seconds), b"0"], **(clock | answers))


def take(outlook: Outlook, sight: Sight) -> bool:
    _, is_news = outlook.take(sight, asked_ms=0, flags=FLAGS, is_deaf=False)
    return is_news


def test_a_mark_holds_from_when_it_was_first_seen() -> None:
    """A watermark from before the newest mark has none: something misled idle times in between."""
    outlook = Outlook()
    forked = edited("stats", ("forks:3", "forks:4"))
    outlook.begin(at(0))
    take(outlook, at(1))
    assert outlook.mark_since(at(0).server_ms) == at(0).mark != 0
    take(outlook, at(2, **forked))
    take(outlook, at(3, **forked))
    assert outlook.mark_since(at(1).server_ms) == 0
    assert outlook.mark_since(at(2).server_ms) == at(2, **forked).mark != 0


def test_a_mark_does_not_reach_back_over_a_connection() -> None:
    """What was before the first look of a connection, another one has seen, or nobody."""
    outlook = Outlook()
    outlook.begin(at(0))
    outlook.begin(at(5))
    assert outlook.mark_since(at(0).server_ms) == 0
    assert outlook.mark_since(at(5).server_ms)


def test_a_state_is_news_when_it_begins_and_when_it_ends() -> None:
    """A dataset that takes long to be replaced is told twice, not at every look."""
    outlook = Outlook()
    loading = edited("persistence", ("loading:0", "loading:1"))
    outlook.begin(at(0))
    news = [
        take(outlook, at(1, **loading)),
        take(outlook, at(2, **loading)),
        take(outlook, at(3)),
        take(outlook, at(4)),
    ]
    assert news == [True, False, True, False]


def test_a_clock_is_told_from_when_it_was_asked() -> None:
    """How far the server is ahead counts from the question: a slow answer makes a gap longer, never shorter."""
    outlook = Outlook()
    outlook.begin(at(0))
    outlook.take(at(10, **REPLICA), asked_ms=7_000, flags=FLAGS, is_deaf=False)
    assert outlook.clock_ms == (TIME_S + 10) * 1_000 - 7_000
