"""What a route will not see, as `engine check` and `engine start` say it."""

from __future__ import annotations

import pytest

from engine.config import RouteSettings
from engine.routing.unseen import NOTHING, notes_of, unseen, unseen_evictions


def route(*events: str, name: str = "carts") -> RouteSettings:
    return RouteSettings(name, "f", events=events)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (("hset",), ["hdel, hexpired, hincrby, hincrbyfloat of hashes", "rename_to", "restore", "strings", "expire"]),
        (("hset", "hdel"), ["hincrby", "copy_to", "any write to strings", "stays"]),
        (("hset", "absence"), ["hincrby", "move_to"]),
        (("set", "append"), ["incrby", "setrange of strings", "hashes"]),
        (("del",), ["any write to strings, lists"]),
    ],
)
def test_what_a_list_by_name_misses_is_named(events: tuple[str, ...], words: list[str]) -> None:
    """Events of the types that it hears, values that come whole, other types, and keys that go; the remedy sees all."""
    message, hint = unseen(route(*events))
    assert message.startswith("will not see ")
    assert [word for word in words if word not in message] == []
    assert "changes" in hint
    assert ("stays" in message) == (not {"del", "absence"} & set(events))


def test_who_sees_all_is_told_nothing() -> None:
    """ "changes" misses nothing, "*" the keys that go alone, and both together nothing."""
    assert unseen(route("changes")) == NOTHING
    assert unseen(route("*", "absence")) == NOTHING
    message, hint = unseen(route("*"))
    assert message == "will not see keys that are deleted, renamed away or expire, so what was delivered of them stays"
    assert hint == 'add "absence" if it should not stay'


@pytest.mark.parametrize(
    ("events", "policy", "is_replica", "word"),
    [
        (("changes",), "noeviction", False, ""),
        (("changes",), "", False, ""),
        (("changes",), "volatile-lru", False, ""),
        (("changes",), "allkeys-lru", False, "will not see evictions (allkeys-lru)"),
        (("*",), "allkeys-lfu", False, "will not see evictions (allkeys-lfu)"),
        (("changes", "evicted"), "allkeys-lru", False, "deletes what the server evicts"),
        (("changes",), "volatile-ttl", True, "can't tell evictions from deletions"),
        (("changes", "evicted"), "volatile-ttl", True, ""),
        (("*",), "allkeys-lru", True, ""),
    ],
)
def test_evictions_are_told_by_policy(events: tuple[str, ...], policy: str, is_replica: bool, word: str) -> None:
    """Where the server evicts, what becomes of it is said; a replica calls it a deletion."""
    message, hint = unseen_evictions(route(*events), policy, is_replica=is_replica)
    assert (word in message and bool(hint)) if word else message == ""


def test_routes_that_miss_the_same_are_told_of_once() -> None:
    """A mapping each for many functions is one line."""
    routes = [route("hset", name=f"m{number}") for number in range(8)] + [route("changes", name="all")]
    ((place, message, _),) = notes_of(routes)
    assert place == "routes 'm0', 'm1', 'm2', 'm3', 'm4' and 3 more"
    assert "hincrby" in message
    assert [place for place, _, _ in notes_of(routes, "allkeys-lru")][-1].endswith("and 4 more")
