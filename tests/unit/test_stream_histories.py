"""Of which history of a server what was read is, and what is owed where that is another one."""

from __future__ import annotations

from engine.capture.sources.stream.followed import OWED, Followed
from engine.capture.sources.stream.histories import Histories, history_of


def histories(*streams: Followed) -> Histories:
    return Histories(streams)


def test_the_history_is_read() -> None:
    """It is the server's replication id; a refusal, or a server without one, tells nothing."""
    assert history_of(b"# Replication\r\nrole:master\r\nmaster_replid:ab12\r\nmaster_replid2:00\r\n") == b"ab12"
    assert history_of(b"role:master\r\n") == history_of(ValueError("NOPERM")) == b""


def test_the_first_history_is_taken_as_it_is() -> None:
    """A stream of which nothing is known owes nothing."""
    stream = Followed(b"s")
    ours = histories(stream)
    ours.look(stream, b"a")
    assert not ours.take_wanted()
    assert not ours.is_owing
    assert stream.history == b"a"


def test_another_history_is_owed_until_its_scan_is_settled() -> None:
    """It counts once the mark behind what was found is settled, and is asked for once."""
    stream = Followed(b"s", history=b"a")
    ours = histories(stream)
    ours.look(stream, b"b")
    assert not ours.is_owing, "nobody has begun the scan"
    assert ours.take_wanted() == [stream]
    ours.look(stream, b"b")
    assert not ours.take_wanted()
    assert ours.is_owing
    ours.settle(100)
    assert stream.history == b"a", "nothing is paid"
    ours.pay(7)
    assert not ours.is_owing
    ours.settle(6)
    assert stream.history == b"a"
    ours.settle(7)
    assert (stream.history, stream.owes) == (b"b", b"")
    ours.look(stream, b"b")
    assert not ours.take_wanted()


def test_another_history_meanwhile_is_owed_too() -> None:
    """What was found in the one before says nothing of it."""
    stream = Followed(b"s", history=b"a")
    ours = histories(stream)
    ours.look(stream, b"b")
    ours.take_wanted()
    ours.pay(7)
    ours.look(stream, b"c")
    assert ours.take_wanted() == [stream]
    ours.settle(7)
    assert stream.history == b"a"
    ours.pay(8)
    ours.settle(8)
    assert stream.history == b"c"


def test_a_debt_outlives_a_start() -> None:
    """Whoever begins with one scans whichever history the server is of, also where that is not told."""
    for told in (b"a", b""):
        stream = Followed(b"s", history=OWED)
        ours = histories(stream)
        ours.look(stream, told)
        assert ours.take_wanted() == [stream]
        ours.look(stream, told)
        assert not ours.take_wanted()
        ours.pay(1)
        ours.settle(1)
        assert stream.history == told


def test_what_was_removed_is_owed() -> None:
    """Until it is settled, what is kept says so."""
    stream, other = Followed(b"s"), Followed(b"t")
    ours = histories(stream, other)
    for one in (stream, other):
        ours.look(one, b"a")
    ours.owe()
    assert ours.take_wanted() == [stream, other]
    assert stream.history == other.history == OWED
    ours.look(stream, b"a")
    assert not ours.take_wanted()
    ours.pay(3)
    ours.settle(3)
    assert stream.history == other.history == b"a"
