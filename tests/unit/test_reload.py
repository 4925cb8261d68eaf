"""New routes while the engine runs: order, bounds, and who is born with what."""

from __future__ import annotations

import pytest
from msgspec import structs

from engine.config import CaptureSettings, OriginalSettings, RedisSettings, RouteSettings, Settings
from engine.routing.routes import RouteTable
from engine.settings.draft import KEYS
from engine.supervision.children import Child, Role
from engine.supervision.reload import DEBOUNCE_MS, Reload, takes_a_restart, with_routes_of
from engine.supervision.topology.rollout import InForce, Replace, Stage, Teach

CONFIRM_MS = 5_000


def table(*names: str, previous: RouteTable | None = None) -> RouteTable:
    return RouteTable.build([RouteSettings(name=name, function="f") for name in names], previous)


@pytest.fixture
def family() -> list[Child]:
    roles = [Role.SUBSCRIBER, Role.SUBSCRIBER, Role.INVOKER, Role.INVOKER]
    return [Child(number, role, number % 2, 2, pid=100 + number) for number, role in enumerate(roles)]


@pytest.fixture
def reload(family: list[Child]) -> Reload:
    reload = Reload(table("carts"), CONFIRM_MS)
    for child in family:
        reload.forked(child)
    return reload


def learn(reload: Reload, *names: str) -> RouteTable:
    newer = table(*names, previous=reload.newest)
    reload.planning()
    assert reload.planned(newer, 0)
    return newer


def test_wishes_close_together_are_one(reload: Reload) -> None:
    """Several wishes within the debounce time lead to one reading; one during it, to another after it."""
    assert not reload.is_due(1_000)
    reload.want(1_000)
    reload.want(1_100)
    assert not reload.is_due(1_000 + DEBOUNCE_MS - 1)
    assert reload.is_due(1_000 + DEBOUNCE_MS)
    reload.planning()
    assert not reload.is_due(9_000)
    reload.want(9_000)
    assert not reload.is_due(10_000)
    reload.refused()
    assert reload.is_due(10_000)


def test_invokers_learn_first(reload: Reload, family: list[Child]) -> None:
    """Subscribers are taught only when every invoker has confirmed; each is taught once."""
    newer = learn(reload, "carts", "people")
    assert reload.step(family, 0) == [Teach(2), Teach(3)]
    reload.confirmed(2, newer.version)
    assert reload.step(family, 1) == []
    reload.confirmed(3, newer.version)
    assert reload.step(family, 2) == [Teach(0), Teach(1)]
    reload.confirmed(0, newer.version)
    reload.confirmed(1, newer.version)
    assert reload.step(family, 3) == [InForce()]
    assert reload.step(family, 4) == []
    assert reload.stage is Stage.IDLE


def test_a_child_forked_meanwhile_is_born_with_its_kinds_table(reload: Reload, family: list[Child]) -> None:
    """A new invoker knows the new routes at once; a new subscriber not before all invokers do."""
    newer = learn(reload, "carts", "people")
    assert reload.table_for(Role.INVOKER) is newer
    assert reload.table_for(Role.SUBSCRIBER) is not newer
    reload.step(family, 0)
    reload.forked(family[2])
    reload.forked(family[0])
    reload.confirmed(3, newer.version)
    assert reload.step(family, 1) == [Teach(0), Teach(1)]
    assert reload.table_for(Role.SUBSCRIBER) is newer


def test_a_child_that_does_not_run_holds_up_nobody(reload: Reload, family: list[Child]) -> None:
    """A child between two lives is born with the new table, so nobody waits for it."""
    newer = learn(reload, "people")
    family[3].pid = 0
    assert reload.step(family, 0) == [Teach(2)]
    reload.confirmed(2, newer.version)
    assert reload.step(family, 1) == [Teach(0), Teach(1)]


def test_who_does_not_confirm_is_replaced(reload: Reload, family: list[Child]) -> None:
    """Past the limit a child that has not taken the routes is to be replaced."""
    newer = learn(reload, "people")
    reload.step(family, 0)
    reload.confirmed(2, newer.version)
    assert reload.step(family, CONFIRM_MS - 1) == []
    assert reload.step(family, CONFIRM_MS) == [Replace(3)]
    reload.forked(family[3])
    assert reload.step(family, CONFIRM_MS + 1) == [Teach(0), Teach(1)]


def test_the_same_routes_change_nothing(reload: Reload, family: list[Child]) -> None:
    """Routes that were read again and are equal bother no child."""
    reload.planning()
    assert not reload.planned(table("carts", previous=reload.newest), 0)
    assert reload.step(family, 0) == []
    assert reload.newest.version == 1


def test_what_only_a_start_takes_is_named() -> None:
    """A reload takes routes, and what makes them of the original's; all else is named, without its value."""
    before = Settings(routes=(RouteSettings("carts", "f"),))
    assert takes_a_restart(before, Settings(original=OriginalSettings(supported_commands=("set",)))) == ()
    fresh = Settings(
        redis=RedisSettings(password="new"),
        capture=CaptureSettings(shards=4),
        original=OriginalSettings(mapping_prefix="m"),
    )
    assert takes_a_restart(before, fresh) == ("capture.shards", "original.mapping_prefix", "redis.password")


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_setting_is_taken_or_named(key: str) -> None:
    """Of every setting that differs a reload says that it takes a start, or it takes it."""
    section, name = key.split(".")
    before, now = Settings(), getattr(Settings(), section)
    fresh = structs.replace(before, **{section: structs.replace(now, **{name: "another"})})
    taken = getattr(getattr(with_routes_of(before, fresh), section), name) == "another"
    assert takes_a_restart(before, fresh) == (() if taken else (key,))
