"""New nodes while the supervisor runs, on real processes with stub children: who is told, in which order."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.test_supervisor import Engine, kill_child, start

Start = Callable[..., Engine]

__all__ = ["start"]


@pytest.fixture(autouse=True)
def two_nodes(tmp_path: Path) -> None:
    set_nodes(tmp_path, "a b")


def set_nodes(folder: Path, names: str) -> None:
    (folder / "nodes.new").write_text(names)
    (folder / "nodes.new").replace(folder / "nodes")


def until_in_force(engine: Engine, version: int, what: str = "topology") -> None:
    def is_said() -> bool:
        lines = engine.errors.read_text().splitlines()
        return any(f"{what}_in_force" in line and f"version={version}" in line for line in lines)

    engine.until(is_said, f"{what} {version}")


def told(engine: Engine, what: str) -> list[str]:
    return [line for line in engine.journal() if f" {what} " in line]


def test_new_nodes_reach_invokers_first(start: Start) -> None:
    """A subscriber's word has the nodes asked for; invokers learn of a new one before any subscriber has its feed."""
    engine = start(shards=2, invokers=2).until_ready()
    set_nodes(engine.folder, "a b c")
    (engine.folder / "moved 0").touch()
    until_in_force(engine, 2)
    lines = [line for line in engine.journal() if " nodes " in line or " feeds " in line]
    assert [line.split()[0] for line in lines] == ["invoker", "invoker", "subscriber", "subscriber"]
    assert all(line.endswith("a0,b1,c2") for line in told(engine, "nodes"))
    fed = [one for line in told(engine, "feeds") for one in line.split()[-1].split(",")]
    assert sorted(fed) == ["a0", "b1", "c2"]
    assert engine.end() == 0


def test_a_number_is_of_one_node_for_ever(start: Start) -> None:
    """A node that comes in another's place has a number of its own, and one that comes back its old one."""
    engine = start(shards=2).until_ready()
    for version, names in ((2, "a c"), (3, "a b"), (4, "d c")):
        set_nodes(engine.folder, names)
        (engine.folder / "moved 1").touch()
        until_in_force(engine, version)
    assert [line.split()[-1] for line in told(engine, "nodes")] == ["a0,c2", "a0,b1", "c2,d3"]
    assert engine.end() == 0


def test_nodes_are_asked_for_on_a_timer(start: Start) -> None:
    """Nobody has to notice: the nodes are asked for every now and then."""
    engine = start(shards=2, capture={"topology_interval_ms": 300}).until_ready()
    set_nodes(engine.folder, "a b c")
    until_in_force(engine, 2)
    assert engine.end() == 0


def test_a_cluster_that_does_not_answer_is_asked_until_it_does(start: Start) -> None:
    """Feeds stay as they are while nobody can be asked, and follow once somebody can."""
    engine = start(shards=2).until_ready()
    set_nodes(engine.folder, "")
    (engine.folder / "moved 0").touch()
    engine.until(lambda: "the cluster does not answer" in engine.errors.read_text(), "the failure is told")
    assert not told(engine, "feeds")
    set_nodes(engine.folder, "a b c")
    until_in_force(engine, 2)
    assert "topology_known_again" in engine.errors.read_text()
    assert engine.end() == 0


@pytest.mark.parametrize("name", ["invoker 0", "subscriber 1"])
def test_a_child_that_does_not_confirm_is_replaced(start: Start, name: str) -> None:
    """One that does not take the new nodes in time is replaced, and its successor is born with them."""
    engine = start(shards=2, invokers=1, limits={"heartbeat_timeout_s": 2.0}).until_ready()
    (engine.folder / f"ignores {name}").touch()
    set_nodes(engine.folder, "a b c")
    (engine.folder / "moved 0").touch()
    until_in_force(engine, 2)
    assert "it did not confirm the new nodes in time" in engine.errors.read_text()
    title = {"invoker 0": "invoker 1/1", "subscriber 1": "subscriber 2/2"}[name]
    engine.until(lambda: engine.child(title)["restarts"] == 1 and engine.child(title)["state"] == "ready", "replaced")
    if name.startswith("subscriber"):
        (fed,) = [line for line in told(engine, "feeds") if line.startswith(name)]
        assert told(engine, "has")[-1] == fed.replace("feeds", "has")
    assert engine.end() == 0


def test_a_killed_subscriber_is_born_with_the_newest(start: Start) -> None:
    """A subscriber that dies after new nodes came is replaced by one that has its newest feeds."""
    engine = start(shards=1).until_ready()
    set_nodes(engine.folder, "a c")
    (engine.folder / "moved 0").touch()
    until_in_force(engine, 2)
    pid = kill_child(engine, "subscriber 1/1", signal.SIGKILL)
    engine.until_replaced("subscriber 1/1", pid)
    assert told(engine, "has")[-1] == "subscriber 0 has a0,c2"
    assert engine.end() == 0


def test_routes_and_nodes_at_the_same_time(start: Start) -> None:
    """New routes and new nodes that are wanted at once both come into force, one after the other, again and again."""
    engine = start(shards=2, invokers=2).until_ready()
    for version in range(2, 8):
        set_nodes(engine.folder, "a b c" if version % 2 == 0 else "a b")
        (engine.folder / "routes").write_text(f'["carts", "route{version}"]')
        engine.process.send_signal(signal.SIGHUP)
        (engine.folder / "moved 0").touch()
        until_in_force(engine, version)
        until_in_force(engine, version, "routes")
    kinds = [word for line in engine.journal() if (word := line.split()[2]) in {"routes", "nodes", "feeds"}]
    told_of = ["topology" if kind in {"nodes", "feeds"} else "routes" for kind in kinds]
    # Each is told to all four children before the other begins.
    assert all(len(set(told_of[start : start + 4])) == 1 for start in range(0, len(told_of), 4)), kinds
    assert engine.end() == 0
