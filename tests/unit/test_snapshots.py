"""What a route lacks of the whole keyspace, after whatever happened to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.capture.feed.missed import merge, routes_missing
from engine.config import RouteSettings
from engine.model import THE_BEGINNING_MS, Missed
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.supervision.progress.checkpoint import FORMAT, Checkpoint, from_bytes, to_bytes
from engine.supervision.progress.progress import Progress
from engine.supervision.progress.snapshots import Heard, Need, Snapshots, need_of

WHOLE: dict[str, Any] = {"starting_position": "TRIM_HORIZON"}


def route(**options: Any) -> RouteSettings:
    return RouteSettings(**{"name": "carts", "function": "f", "keys": ("cart:*",), **options})


def had(**options: Any) -> Heard:
    return Heard.by(route(**options), is_whole=True)


@pytest.mark.parametrize(
    ("past", "now", "need"),
    [
        (None, route(), Need()),
        (Heard.by(route(), is_whole=False), route(), Need()),
        (had(), route(), None),
        (had(), route(batch_size=1, payload="original", include_expiry=True), None),
        (had(), route(keys=("user:*", "cart:*")), Need(("cart:*",))),
        (had(keys=("cart:*", "user:*")), route(), None),
        (had(keys=("*",)), route(keys=("*", "cart:*")), None),
        (had(), route(events=("hset", "hincrby")), Need()),
        (had(events=("*",)), route(events=("hset",)), None),
        (had(), route(events=("hset", "del", "expired")), None),
        (had(), route(function="g"), Need()),
        (had(), route(function="f:live"), None),
        (had(), route(function="arn:aws:lambda:eu-west-1:123456789012:function:f:7"), None),
        (had(destination="dynamodb://one"), route(destination="dynamodb://two"), Need()),
        (had(destination="dynamodb://one"), route(destination="dynamodb://one", function="g"), None),
        (had(), route(destination="dynamodb://one"), None),
    ],
)
def test_what_a_changed_route_lacks(past: Heard | None, now: RouteSettings, need: Need | None) -> None:
    """It lacks what it never listened to, all of it where its values go elsewhere, and nothing where it lost some."""
    assert need_of(past, now) == need


def snapshots(past: dict[str, Heard], *routes: RouteSettings) -> Snapshots:
    return Snapshots(past, RouteTable.build(routes), {"": 100})


def test_a_route_that_gets_the_position_later_is_given_everything() -> None:
    """Listening from now on is no snapshot; one that was asked for later is under way until a younger watermark."""
    first = snapshots({}, route())
    assert (first.missed(), first.states()) == ((), {"carts": "none"})
    later = snapshots(first.kept(), route(**WHOLE))
    assert later.missed() == (Missed(THE_BEGINNING_MS, routes=1),)
    assert (later.states(), later.listening(), later.done()) == ({"carts": "under way"}, 1, ())
    later.advance({"": 100})
    again = snapshots(later.kept(), route(**WHOLE))
    assert again.missed() == (Missed(THE_BEGINNING_MS, routes=1),)
    later.advance({"": 101})
    assert (later.states(), later.missed()) == ({"carts": "done"}, ())
    assert snapshots(later.kept(), route(**WHOLE)).missed() == ()


def test_a_wider_route_is_given_what_is_new() -> None:
    """Until that is done the old filter stays known, so that a kill begins it again; what was delivered is left out."""
    wider = route(keys=("cart:*", "user:*"), **WHOLE)
    begun = snapshots({"carts": had()}, wider)
    (missed,) = begun.missed()
    assert missed.delivered == {0: ("cart:*",)}
    mask = routes_missing(missed)
    assert (mask(b"cart:1"), mask(b"user:1")) == (0, 1)
    assert snapshots(begun.kept(), wider).missed() == (missed,)
    begun.advance({"": 101})
    assert snapshots(begun.kept(), wider).missed() == ()


def test_what_listened_only_from_a_moment_on_is_no_snapshot() -> None:
    """A route with a snapshot whose position is taken away and whose keys grow has none of what is new."""
    latest = snapshots({"carts": had()}, route(keys=("*",)))
    assert latest.missed() == ()
    assert snapshots(latest.kept(), route(keys=("*",), **WHOLE)).missed() == (Missed(THE_BEGINNING_MS, routes=1),)


def test_a_route_of_a_reload_is_under_way_until_everybody_knows_it() -> None:
    """No watermark ends a snapshot before every subscriber was told of it; a route that was away begins anew."""
    state = snapshots({"carts": had()}, route())
    state.take_routes(RouteTable.build([]), None)
    assert state.kept() == {}
    state.take_routes(RouteTable.build([route(**WHOLE)]), None)
    assert state.missed(is_new=True) == state.missed() != ()
    state.advance({"": 1_000_000})
    assert state.states() == {"carts": "under way"}
    state.in_force({"": 2_000_000})
    assert state.missed(is_new=True) == () != state.missed()
    state.advance({"": 2_000_000})
    assert state.states() == {"carts": "under way"}
    state.advance({"": 2_000_001})
    assert state.states() == {"carts": "done"}


def test_scans_that_are_merged_cover_both() -> None:
    """What one of them was to pass over, another route's scan does not bring back, its own only where both agree."""
    one = Missed(1, routes=0b01, delivered={0: ("a*",)})
    other = Missed(1, routes=0b10, delivered={1: ("b*",)})
    assert merge(one, other).delivered == {0: ("a*",), 1: ("b*",)}
    assert merge(one, Missed(1, routes=0b01)).delivered == {}
    assert merge(one, one) == one


def test_an_older_checkpoint_is_read() -> None:
    """One that knows no filters counts its routes as served with those of now; what is written next knows them."""
    old = from_bytes(to_bytes(Checkpoint("here", 40_000, 7, 1_000, ("carts",))))
    assert old is not None and old.format == 1
    table = RouteTable.build([route(**WHOLE), route(name="new", **WHOLE)])
    progress = Progress(
        "here", old, table, {"": 50_000}, is_lost=False, topology=Topology(), feeds=assign(Topology(), 1)
    )
    assert progress.snapshots() == {"carts": "done", "new": "under way"}
    kept = progress.checkpoint(0, 0, 0, is_clean=False, fence_after_ms=14_000)
    assert (kept.format, kept.fence_after_ms, kept.heard) == (FORMAT, 14_000, {"carts": had()})
    assert from_bytes(to_bytes(kept)) == kept
    assert msgspec.json.decode(msgspec.json.encode(kept))["routes"] == ["carts"]
