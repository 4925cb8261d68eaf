"""The chaos suite's oracle, on made-up ledgers and tables: it sees what is lost, stale or invented, and only that."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.chaos.ledger import Answer, Ledger, keys_of, word
from tests.chaos.model import Round, seed_of, summary
from tests.chaos.oracle import Item, Truth, Verdict, count_duplicates, is_same, judge, key_of


def sent(ledger: Ledger, *command: str, answer: Answer = Answer.ACKNOWLEDGED) -> None:
    ledger.send(tuple(word(one) for one in command)).answer = answer


def cart(number: int, **fields: str) -> Truth:
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    return Truth("hash", {b"n": str(number).encode(), **raw})


def item(content: Any) -> Item:
    return Item(json.dumps(content))


@pytest.fixture
def ledger() -> Ledger:
    """A key written twice, a key written and deleted."""
    made = Ledger()
    sent(made, "HSET", "a", "n", "1", "name", "one")
    sent(made, "HSET", "b", "n", "2")
    sent(made, "HSET", "a", "n", "3", "name", "three")
    sent(made, "DEL", "b")
    return made


TRUTH = {b"a": cart(3, name="three")}
RIGHT = {b"a": item({"name": "three", "n": "3"})}


def counts(verdict: Verdict) -> tuple[int, int, int]:
    return verdict.lost, verdict.stale, verdict.invented


def test_right(ledger: Ledger) -> None:
    """A table that equals the truth is whole, and every key that was ever written was compared."""
    verdict = judge(TRUTH, RIGHT, ledger)
    assert verdict.is_whole
    assert (verdict.keys, verdict.redis_lost) == (2, 0)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ({}, (1, 0, 0)),
        (RIGHT | {b"b": item({"n": "2"})}, (1, 0, 0)),
        ({b"a": item({"n": "1", "name": "one"})}, (0, 1, 0)),
        ({b"a": item({"n": "3", "name": "one"})}, (0, 1, 0)),
        ({b"a": item({"n": "3"})}, (0, 1, 0)),
        ({b"a": item({"n": "3", "name": "four"})}, (0, 0, 1)),
        ({b"a": item({"n": "2", "name": "three"})}, (0, 0, 1)),
        (RIGHT | {b"b": item({"n": "1"})}, (0, 0, 1)),
        (RIGHT | {b"c": item({"n": "3"})}, (0, 0, 1)),
        ({b"a": Item("no json")}, (0, 0, 1)),
        ({b"b": item({"n": "2"})}, (2, 0, 0)),
    ],
    ids=[
        "missing",
        "its delete is missing",
        "an older value",
        "an older field",
        "a field is missing",
        "a value that nobody sent",
        "another key's number",
        "another key's value in one that is gone",
        "a key that nobody sent",
        "no JSON",
        "two at once",
    ],
)
def test_wrong(ledger: Ledger, items: dict[bytes, Item], expected: tuple[int, int, int]) -> None:
    """Every kind of difference is found, and called by its name."""
    verdict = judge(TRUTH, items, ledger)
    assert counts(verdict) == expected
    assert len(verdict.details) == sum(expected)


def test_lost_reply() -> None:
    """A write whose reply was lost may have happened or not: what Redis holds at the end is right."""
    ledger = Ledger()
    sent(ledger, "HSET", "a", "n", "1")
    sent(ledger, "HSET", "a", "n", "2", answer=Answer.LOST)
    for number in (1, 2):
        held = {b"a": item({"n": str(number)})}
        assert judge({b"a": cart(number)}, held, ledger) == Verdict(keys=1)
        assert counts(judge({b"a": cart(3 - number)}, held, ledger)) == (0, 1, 0)


def test_redis_lost(ledger: Ledger) -> None:
    """What Redis itself has lost is told apart: then the older value is the truth, and the newer one is stale."""
    truth = {b"a": cart(1, name="one")}
    verdict = judge(truth, RIGHT, ledger)
    assert (verdict.redis_lost, verdict.stale) == (1, 1)
    assert judge(truth, {b"a": item({"n": "1", "name": "one"})}, ledger).is_whole
    assert judge({}, {}, ledger).redis_lost == 1


def test_refused_write_is_no_truth() -> None:
    """A write that Redis has refused is not missed."""
    ledger = Ledger()
    sent(ledger, "HSET", "a", "n", "1")
    sent(ledger, "HSET", "a", "n", "2", answer=Answer.REFUSED)
    assert judge({b"a": cart(1)}, {b"a": item({"n": "1"})}, ledger) == Verdict(keys=1)


def test_renamed(ledger: Ledger) -> None:
    """A renamed key's values are the new key's too; the old name must go."""
    sent(ledger, "RENAME", "a", "z")
    truth = {b"z": cart(3, name="three")}
    old = item({"n": "1", "name": "one"})
    assert counts(judge(truth, {b"z": old}, ledger)) == (0, 1, 0)
    assert counts(judge(truth, {b"z": item({"n": "3", "name": "three"}), b"a": old}, ledger)) == (1, 0, 0)


def test_may_stay(ledger: Ledger) -> None:
    """Where the long-term store may keep what the cache forgot, only made-up values are wrong."""
    held = RIGHT | {b"b": item({"n": "2"})}
    assert judge(TRUTH, held, ledger, absent_may_stay=True).is_whole
    made_up = RIGHT | {b"b": item({"n": "7"})}
    assert counts(judge(TRUTH, made_up, ledger, absent_may_stay=True)) == (0, 0, 1)


def test_exempt(ledger: Ledger) -> None:
    """A key that can't be stored is left out, and not counted."""
    assert judge(TRUTH, {}, ledger, exempt=lambda key: key == b"a") == Verdict(keys=1)


def test_computed() -> None:
    """A value that the server made itself can't be made up; it can still be wrong."""
    ledger = Ledger()
    sent(ledger, "INCR", "hits")
    ledger.computed(b"hits")
    truth = {b"hits": Truth("string", b"41")}
    assert counts(judge(truth, {b"hits": item("40")}, ledger)) == (0, 1, 0)
    assert judge(truth, {b"hits": item("41")}, ledger).is_whole


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        (Truth("string", b"x"), "x", ["x"]),
        (Truth("list", [b"x", b"y"]), ["x", "y"], ["y", "x"]),
        (Truth("set", [b"y", b"x"]), ["x", "y"], ["x", "x", "y"]),
        (Truth("zset", [(b"x", b"1"), (b"y", b"inf")]), [["x", 1], ["y", "inf"]], [["x", 2], ["y", "inf"]]),
        (Truth("stream", [(b"1-0", [(b"f", b"v")])]), [["1-0", [["f", "v"]]]], [["1-1", [["f", "v"]]]]),
        (Truth("hash", {b"f": b"v"}), {"f": "v"}, [["f", "v"]]),
    ],
    ids=lambda value: value.kind if isinstance(value, Truth) else "",
)
def test_types(truth: Truth, right: Any, wrong: Any) -> None:
    """Each type is compared in its own way; another value, or another shape, is not the same."""
    if truth.kind == "stream":
        truth = Truth("stream", [(number, list(pairs)) for number, pairs in truth.content])
    assert is_same(item(right), truth)
    assert not is_same(item(wrong), truth)
    assert not is_same(item(None), truth)


def test_bytes() -> None:
    """Values that are not UTF-8 are compared byte by byte, and their keys are found."""
    raw = base64.b64encode(b"\xff\x00").decode()
    field = base64.b64encode(b"f").decode()
    held = Item(json.dumps({field: raw}), is_base64=True)
    assert is_same(held, Truth("hash", {b"f": b"\xff\x00"}))
    assert not is_same(held, Truth("hash", {b"f": b"\xff\x01"}))
    assert not is_same(Item(held.body), Truth("hash", {b"f": b"\xff\x00"}))
    assert key_of("base64:" + raw) == b"\xff\x00"
    assert key_of("utf8:base64:x") == b"base64:x"
    assert key_of("ü") == "ü".encode()


def test_keys_of_commands() -> None:
    """The ledger knows which words of a command are keys."""
    assert keys_of((b"del", b"a", b"b")) == (b"a", b"b")
    assert keys_of((b"RENAME", b"a", b"b")) == (b"a", b"b")
    assert keys_of((b"MSET", b"a", b"1", b"b", b"2")) == (b"a", b"b")
    assert keys_of((b"HSET", b"a", b"f", b"v")) == (b"a",)
    assert keys_of((b"FLUSHALL",)) == ()


def invocation(ended: int, *records: tuple[str, str | None], error: str = "", function: str = "f") -> dict[str, Any]:
    event = {"records": [{"id": key, "body": body} for key, body in records]}
    return {"function": function, "ended_ns": ended, "error": error, "event": event}


def test_duplicates() -> None:
    """A value counts as delivered twice only where it was brought before, successfully, to the same function."""
    first = invocation(1, ("a", "1"), ("b", None))
    assert count_duplicates([first]) == 0
    assert count_duplicates([first, invocation(2, ("a", "1"))]) == 1
    assert count_duplicates([first, invocation(2, ("a", "2"), ("b", None))]) == 1
    assert count_duplicates([first, invocation(2, ("b", "1")), invocation(3, ("b", None))]) == 0
    assert count_duplicates([first, invocation(2, ("a", "1"), error="Unhandled")]) == 0
    assert count_duplicates([first, invocation(2, ("a", "1"), function="g")]) == 0


def test_summary() -> None:
    """Counts of rounds are added, the longest wait stands, and one bad round fails the fault."""
    good = Round(1, struck=True, evidence="hit", written=5, whole_again_s=0.5)
    slow = Round(2, struck=True, evidence="hit", written=6, whole_again_s=2.0, redis_lost=3)
    line = summary("x", [good, slow])
    assert (line["written"], line["whole_again_s"], line["struck"], line["passed"]) == (11, 2.0, True, True)
    for bad in (Round(3, struck=True, lost=1), Round(3, whole_again_s=1.0), Round(3, struck=True, error="no")):
        assert not summary("x", [good, bad])["passed"]
    assert summary("x", [good, Round(3, struck=True)])["whole_again_s"] is None


def test_seeds() -> None:
    """A fault's seed depends on the suite's, its name and the round, and on nothing else."""
    assert seed_of(1, "a", 0) == seed_of(1, "a", 0)
    assert len({seed_of(1, "a", 0), seed_of(2, "a", 0), seed_of(1, "b", 0), seed_of(1, "a", 1)}) == 4
