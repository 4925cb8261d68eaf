"""When what a comparison found gone is deleted, held or kept, and how the choice is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.audit.deletions import (
    NOTHING_HELD,
    Dataset,
    Held,
    HeldRoute,
    Judgement,
    Part,
    ServerFacts,
    Trust,
    Why,
    began_anew,
    decided,
    facts_of,
    free_keys,
    held_after,
    is_past_limit,
    judge,
    trust_of,
)
from engine.audit.held_file import HeldFile, KeptKeys, hash_of
from engine.audit.spool import KeySpool
from engine.errors import EngineError

QUARTER = 0.25
HELD = HeldRoute(gone=300, of=400, why=str(Why.SHARE), since_ms=5)


@pytest.mark.parametrize(
    ("gone", "of", "is_past"),
    [(100, 100, False), (101, 101, True), (101, 404, False), (101, 403, True), (0, 0, False), (1_000, 10_000, False)],
)
def test_the_limit_is_a_share_and_a_number(gone: int, of: int, is_past: bool) -> None:
    """Past the limit is more than a quarter of what the destination holds, and more than 100 keys."""
    assert is_past_limit(gone, of, QUARTER) is is_past


def test_a_server_that_came_back_empty_is_noticed_however_few_keys_are_gone() -> None:
    """Another process that loaded nothing and has no history in common began anew: nothing is deleted."""
    known = Dataset("a" * 40, "h1")
    empty = ServerFacts("b" * 40, ("h2",), 0)
    assert began_anew(known, empty)
    assert judge(NOTHING_HELD, [Part(3, 1_000, Trust(is_anew=True))], QUARTER) is Judgement.HOLD


def test_a_replica_that_follows_an_empty_primary_began_anew() -> None:
    """Its process goes on, its history has changed and brought nothing; one that was sent keys goes on with those."""
    known = Dataset("a" * 40, "h1")
    assert began_anew(known, ServerFacts("a" * 40, ("h2",), 0, is_replica=True))
    assert not began_anew(known, ServerFacts("a" * 40, ("h1",), 0, is_replica=True))
    assert not began_anew(known, ServerFacts("a" * 40, ("h2", "h1"), 0, is_replica=True))
    assert not began_anew(known, ServerFacts("a" * 40, ("h2",), 7, is_replica=True))


def test_another_server_that_does_not_tell_what_it_began_with_has_only_the_share() -> None:
    """Redis 6 and append-only files tell no count: a share of the keys may be gone, and no number of them for free."""
    known = Dataset("a" * 40, "h1")
    free = free_keys(known, ServerFacts("b" * 40, ("h2",), -1))
    assert judge(NOTHING_HELD, [Part(10, 10, Trust(free=free))], QUARTER) is Judgement.HOLD
    assert judge(NOTHING_HELD, [Part(2, 10, Trust(free=free))], QUARTER) is Judgement.DELETE
    for goes_on in (ServerFacts("a" * 40, ("h2",), -1), ServerFacts("b" * 40, ("h2",), 7)):
        free = free_keys(known, goes_on)
        assert judge(NOTHING_HELD, [Part(10, 10, Trust(free=free))], QUARTER) is Judgement.DELETE


@pytest.mark.parametrize(
    "now",
    [
        ServerFacts("a" * 40, ("h2",), 0),
        ServerFacts("b" * 40, ("h2",), 7),
        ServerFacts("b" * 40, ("h1",), 0),
        ServerFacts("b" * 40, ("h2", "h3"), 0),
        ServerFacts("b" * 40, ("h2",), -1),
        ServerFacts(),
    ],
    ids=[
        "same process",
        "loaded its keys",
        "the same history",
        "a replica was promoted",
        "does not tell what it loaded",
        "tells nothing",
    ],
)
def test_a_server_that_goes_on_did_not_begin_anew(now: ServerFacts) -> None:
    """A dataset goes on with its process, with what was loaded, and with the history of its replication."""
    assert not began_anew(Dataset("a" * 40, "h1"), now)
    assert not began_anew(None, now)


A, B, C = "a" * 40, "b" * 40, "c" * 40


def test_a_node_that_began_anew_holds_what_is_gone_on_any() -> None:
    """One primary of three that restarted empty holds the route's deletions, wherever its slots are by now."""
    known = {"n1": Dataset(A, "h1"), "n2": Dataset(B, "h2"), "n3": Dataset(C, "h3")}
    now = {
        "n1": ServerFacts("d" * 40, ("h9",), 0),
        "n2": ServerFacts(B, ("h2",), 0),
        "n3": ServerFacts(C, ("h3",), 0),
    }
    trust = trust_of(known, now)
    assert [trust[node].is_anew for node in now] == [True, False, False]
    parts = [Part(0, 1_000, trust["n1"]), Part(5, 1_000, trust["n2"]), Part(0, 1_000, trust["n3"])]
    assert judge(NOTHING_HELD, parts, QUARTER) is Judgement.HOLD
    assert held_after(NOTHING_HELD, Judgement.HOLD, parts, 0, 9) == HeldRoute(5, 3_000, str(Why.ANEW), 9)


def test_a_failover_is_no_new_dataset() -> None:
    """A replica that took over is another node of another process, and goes on with its primary's history."""
    known = {"n1": Dataset(A, "h1"), "n2": Dataset(B, "h2")}
    now = {"r1": ServerFacts("d" * 40, ("h9", "h1"), 0), "n2": ServerFacts(B, ("h2",), 0)}
    assert trust_of(known, now) == {"r1": Trust(), "n2": Trust()}


def test_a_node_that_goes_on_with_nobodys_dataset_has_a_share_and_nothing_for_free() -> None:
    """A node that was added, or stands for one that was lost: few keys are held too, if they are most of its keys."""
    known = {"n1": Dataset(A, "h1")}
    trust = trust_of(known, {"n1": ServerFacts(A, ("h1",), 0), "n2": ServerFacts(B, ("h2",), 0)})
    assert judge(NOTHING_HELD, [Part(0, 90, trust["n1"]), Part(10, 10, trust["n2"])], QUARTER) is Judgement.HOLD
    assert judge(NOTHING_HELD, [Part(10, 10, trust["n1"]), Part(2, 10, trust["n2"])], QUARTER) is Judgement.DELETE
    assert trust_of({}, {"n2": ServerFacts(B, ("h2",), 0)}) == {"n2": Trust()}


def test_each_node_has_its_own_limit() -> None:
    """A node that lost its keys is noticed in a cluster of many, where they are a small part of all."""
    parts = [Part(0, 1_000)] * 9 + [Part(900, 1_000)]
    assert judge(NOTHING_HELD, parts, QUARTER) is Judgement.HOLD
    assert judge(NOTHING_HELD, [Part(90, 1_000)] * 10, QUARTER) is Judgement.DELETE
    accepted = decided(HeldRoute(900, 10_000, str(Why.SHARE), 5), "accept")
    assert accepted is not None
    assert judge(accepted, parts, QUARTER) is Judgement.DELETE


def test_a_file_of_one_server_is_read_and_keeps_its_form() -> None:
    """A server without cluster mode is the node without a name."""
    held = Held(dataset=Dataset("run"))
    assert held.datasets == {"": Dataset("run")}
    assert held.knowing(held.datasets) == held
    assert held.knowing({"n1": Dataset("other")}).datasets == {"n1": Dataset("other")}


def test_what_a_server_tells_of_its_dataset() -> None:
    """INFO names the process, its histories, and how many keys were loaded, unless a file of another kind was."""
    info = b"run_id:abc\r\nmaster_replid:h1\r\nmaster_replid2:0000\r\nrdb_last_load_keys_loaded:7\r\naof_enabled:0\r\n"
    assert facts_of(info) == ServerFacts("abc", ("h1",), 7)
    assert facts_of(info.replace(b"aof_enabled:0", b"aof_enabled:1")).loaded_keys == -1
    assert facts_of(info + b"role:slave\r\n") == ServerFacts("abc", ("h1",), 7, is_replica=True)
    assert facts_of(b"") == ServerFacts()


def test_what_is_held_stays_held_until_somebody_decides() -> None:
    """Deletions that wait for a choice wait on, though fewer are gone now; since when and why stays as it was."""
    judgement = judge(HELD, [Part(20, 400)], QUARTER)
    assert judgement is Judgement.HOLD
    held = held_after(HELD, judgement, [Part(20, 400)], 0, 99)
    assert held == HeldRoute(gone=20, of=400, why=str(Why.SHARE), since_ms=5)
    gone_none = judge(HELD, [Part(0, 400)], QUARTER)
    assert held_after(HELD, gone_none, [Part(0, 400)], 0, 99) == NOTHING_HELD


def test_an_acceptance_covers_what_was_held_then() -> None:
    """Accepted keys are deleted, once; many more, or another empty server, ask again."""
    accepted = decided(HELD, "accept")
    assert accepted is not None
    assert judge(accepted, [Part(310, 400)], QUARTER) is Judgement.DELETE
    assert held_after(accepted, Judgement.DELETE, [Part(310, 400)], 0, 99) == NOTHING_HELD
    assert judge(accepted, [Part(900, 1_000)], QUARTER) is Judgement.HOLD
    assert judge(accepted, [Part(310, 400, Trust(is_anew=True))], QUARTER) is Judgement.HOLD


def test_a_refusal_keeps_the_keys_and_may_be_taken_back() -> None:
    """Refused keys are kept; they are accepted later by the same command."""
    refused = decided(HELD, "refuse")
    assert refused is not None
    assert judge(refused, [Part(300, 400)], QUARTER) is Judgement.KEEP
    kept = held_after(refused, Judgement.KEEP, [Part(300, 400)], 300, 99)
    assert (kept.gone, kept.kept, kept.is_undecided) == (0, 300, False)
    again = decided(kept, "accept")
    assert again is not None and (again.gone, again.kept, again.choice) == (300, 0, "accept")
    assert decided(kept, "refuse") is None


def test_a_choice_outlives_the_process(tmp_path: Path) -> None:
    """What is held, decided and kept is read back; a choice made while a comparison ran is not lost by its end."""
    file = HeldFile(str(tmp_path / "folder" / "checkpoint.deletions"))
    before = file.load()
    assert before == Held()
    kept = {"carts": KeptKeys(map(hash_of, [b"b", b"a"]))}
    file.settle(before, Held(dataset=Dataset("run"), routes={"carts": HELD}), kept)
    stamp = file.stamp()
    begun = file.load()
    assert begun.undecided_keys == 300 and not begun.has_choice
    file.choose("carts", "refuse")
    assert file.stamp() != stamp
    file.settle(begun, Held(dataset=Dataset("run2"), routes={"carts": HELD}), kept)
    read = HeldFile(str(file.path)).load()
    assert (read.dataset, read.routes["carts"].choice, read.has_choice) == (Dataset("run2"), "refuse", True)
    keys = file.load_kept()["carts"]
    assert b"a" in keys and b"b" in keys and b"c" not in keys and len(keys) == 2


def test_the_first_dataset_is_kept_and_no_later_one(tmp_path: Path) -> None:
    """A start keeps which dataset it saw only where none is known: what replaces it is for a comparison to notice."""
    file = HeldFile(str(tmp_path / "deletions"))
    file.know({"": Dataset("first")})
    file.know({"": Dataset("second")})
    assert file.load().dataset == Dataset("first")


def test_nothing_to_decide(tmp_path: Path) -> None:
    """A choice of what is not held is an error that names what is."""
    file = HeldFile(str(tmp_path / "deletions"))
    file.settle(Held(), Held(routes={"carts": HELD}), {})
    with pytest.raises(EngineError, match=r"no deletions of route 'users' are held.*carts"):
        file.choose("users", "accept")


def test_keys_in_a_spool(tmp_path: Path) -> None:
    """Keys come back in their order, past what memory may hold too."""
    spool = KeySpool()
    keys = [b"%d:%s" % (number, b"x" * 50_000) for number in range(100)]
    spool.add(keys)
    assert spool.count == 100
    assert [key for part in spool.lists(30) for key in part] == keys
    spool.close()
