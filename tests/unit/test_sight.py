from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.capture.watch.sight import Change, Sight, compare, follow
from engine.errors import RedisError
from tests.looks import ANSWERS, DENIED, REPLICA, TIME_S, edited, look

STATS, REPLICATION = "stats", "replication"
NO_LINK = edited(REPLICATION, ("link_status:up", "link_status:down"), of=REPLICA) | {"CLIENT": b""}
RESETSTAT = ("cmdstat_config|set", "cmdstat_config|resetstat:calls=1,usec=70\r\ncmdstat_config|set")


def test_a_look_reads_the_servers_own_figures() -> None:
    """Time, flags, process, and the counts of what leaves no event."""
    sight = look()
    assert (sight.server_ms, sight.flags, sight.run_id) == (TIME_S * 1_000 + 123, "Khg", b"abc123")
    assert (sight.config_sets, sight.replacements, sight.commands) == (4, 3, 900)
    assert sight.mark
    assert not sight.is_blind


def test_what_a_server_does_not_tell_is_unknown() -> None:
    """A right that is missing leaves a figure unknown, and never looks like a change."""
    blind = look(**{name: DENIED for name in ANSWERS if name != "TIME"})
    assert (blind.flags, blind.config_sets, blind.replacements, blind.mark) == (None, -1, -1, 0)
    assert blind.is_blind
    assert compare(blind, blind, "Khg") == Change()


def test_a_server_that_counts_its_commands_as_a_whole_tells_no_sets() -> None:
    """Before Redis 7 our own CONFIG GET would count as well."""
    old = look(server=b"redis_version:6.2.5\r\nrun_id:abc123\r\n", commandstats=b"cmdstat_config:calls=9,usec=1\r\n")
    assert old.config_sets == -1


def test_a_server_without_time_is_refused() -> None:
    """Without the server's time nothing can be said of when."""
    with pytest.raises(RedisError):
        look(TIME=DENIED)


def test_equal_looks_are_no_change() -> None:
    """Nothing is found where nothing happened; time and counts that grow are nothing."""
    later = look(TIME=[b"1700000009", b"0"], **edited(STATS, ("processed:900", "processed:950")))
    assert compare(look(), later, "Khg") == Change()


def test_flags_that_are_missing_deafen() -> None:
    """While a flag that is needed is off, events are lost; flags beyond those needed are no matter."""
    before = look()
    change = compare(before, look(CONFIG=[b"notify-keyspace-events", b"K"]), "Kh")
    assert change.is_deaf
    assert change.reasons
    assert compare(before, before, "Kh") == Change()


def test_flags_that_were_off_and_on_again_are_found() -> None:
    """The same flags with one more CONFIG SET between: they may have been off."""
    change = compare(look(), look(**edited("commandstats", ("set:calls=4", "set:calls=6"))), "Khg")
    assert change.reasons
    assert not change.is_deaf


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (edited("commandstats", ("flushall:calls=2", "flushall:calls=3")), "flushed"),
        ({"commandstats": ANSWERS["commandstats"] + b"cmdstat_swapdb:calls=1,usec=1\r\n"}, "swapped"),
        ({"commandstats": ANSWERS["commandstats"] + b"cmdstat_debug:calls=1,usec=1\r\n"}, "loaded"),
        ({"commandstats": ANSWERS["commandstats"] + b"cmdstat_replicaof:calls=1,usec=1\r\n"}, "loaded"),
        (edited("server", ("abc123", "other")), "another server"),
        ({"TIME": [b"1699999999", b"0"]}, "went back"),
        (edited(STATS, ("processed:900", "processed:12")), "reset"),
        (edited(REPLICATION, ("master_repl_offset:500", "master_repl_offset:499")), "went back"),
        (edited(REPLICATION, ("replid:aaa", "replid:bbb"), ("replid2:000", "replid2:aaa")), "history has changed"),
        (REPLICA, "role"),
        (edited("persistence", ("loading:0", "loading:1")), "loaded"),
    ],
)
def test_what_replaces_a_dataset_is_found(answer: dict[str, Any], word: str) -> None:
    """What changes keys without an event, and what hides that, is named, and nothing else with it."""
    (reason,) = compare(look(), look(**answer), "Khg").reasons
    assert word in reason


def test_a_second_reset_is_found() -> None:
    """A reset sets its own count back too: how long it took, and what goes down, tell one from the next."""
    once = look(**edited("commandstats", RESETSTAT))
    twice = look(**edited("commandstats", RESETSTAT, ("resetstat:calls=1,usec=70", "resetstat:calls=1,usec=71")))
    assert compare(look(), once, "Khg").reasons
    assert compare(once, twice, "Khg").reasons
    assert not compare(once, once, "Khg").reasons


def test_a_primary_that_begins_a_history_is_the_same() -> None:
    """For its first replica a primary takes a new replication id, and has none before it: its dataset is as it was."""
    begun = look(**edited(REPLICATION, ("replid:aaa", "replid:bbb")))
    assert compare(look(), begun, "Khg") == Change()


def test_a_resynchronized_replica_is_found() -> None:
    """Another connection to its primary, also after a break, means that the dataset was sent anew."""
    anew = look(**REPLICA | {"CLIENT": b"id=9 addr=127.0.0.1:1 flags=M\n"})
    down = follow(look(**REPLICA), look(**NO_LINK))
    assert not compare(look(**REPLICA), down, "Khg").reasons
    for before in (look(**REPLICA), down):
        (reason,) = compare(before, follow(before, anew), "Khg").reasons
        assert "resynchronized" in reason


def test_a_replica_that_takes_up_where_it_was_is_the_same() -> None:
    """A link that comes back after a break is the same one, where nothing was missed; meanwhile there is no mark."""
    before = look(**REPLICA)
    down = follow(before, look(**NO_LINK))
    assert before.mark
    assert (down.mark, bool(down.doubt)) == (0, True)
    assert not compare(down, follow(down, look(**REPLICA)), "Khg").reasons


def test_where_connections_are_not_told_every_break_counts() -> None:
    """Without the right to list clients a link that was down may have come back with another dataset."""
    up, down = look(**REPLICA | {"CLIENT": DENIED}), look(**NO_LINK | {"CLIENT": DENIED})
    assert compare(up, follow(up, down), "Khg").reasons
    assert compare(down, follow(down, up), "Khg").reasons
    assert not compare(up, up, "Khg").reasons


@pytest.mark.parametrize("state", ["loading", "async_loading", "master_sync_in_progress"])
def test_a_dataset_that_is_being_replaced_is_unsettled(state: str) -> None:
    """As long as it lasts every look says so, and the first one after it says that it was replaced."""
    name = REPLICATION if state.startswith("master") else "persistence"
    line = state if state == "loading" else f"\n{state}"
    during, after = look(**REPLICA | edited(name, (f"{line}:0", f"{line}:1"), of=REPLICA)), look(**REPLICA)
    assert compare(after, during, "Khg").is_unsettled
    assert compare(during, during, "Khg").is_unsettled
    change = compare(during, after, "Khg")
    assert change.reasons
    assert not change.is_unsettled


def test_a_keepsake_that_is_gone_is_remembered() -> None:
    """The word that a key held is compared with the next that is seen, however many looks lie between."""
    kept, gone, other = (replace(look(), keepsake=word) for word in (b"one", None, b"two"))
    without = follow(kept, gone)
    assert not compare(kept, without, "Khg").reasons
    assert compare(without, follow(without, other), "Khg").reasons
    assert not compare(gone, follow(gone, kept), "Khg").reasons


def test_no_mark_lasts_over_a_clock_that_went_back() -> None:
    """Idle times of before and after are another clock's, also when it has come as far again."""
    earlier_s = TIME_S - 50
    clock = edited("server", (f"lru_clock:{TIME_S % 2**24}", f"lru_clock:{earlier_s % 2**24}"))
    first, back = look(), look(TIME=[b"%d" % earlier_s, b"0"], **clock)
    second = follow(first, back)
    third = follow(second, look())
    assert first.mark == look().mark
    assert second.mark not in (0, first.mark)
    assert third.mark == second.mark


def test_marks_do_not_depend_on_the_process_that_looks() -> None:
    """A successor, and the next engine, find the same mark on a server that is as it was."""
    assert follow(Sight(0), look()).mark == look().mark
