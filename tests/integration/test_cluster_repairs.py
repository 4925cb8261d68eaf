"""Comparisons, held deletions, dead letters and audits with a real cluster, an engine and a table."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.routing.nodes import slot_of, slots_in
from engine.sandbox.stack import Sandbox
from tests.cluster import Cluster, cluster, wait_until
from tests.support import wait_for
from tests.table_rig import TableRig

COUNT = 120


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(primaries=3, replicas=getattr(request, "param", 0)) as one:
        yield one


@pytest.fixture
def rig(sandbox: Sandbox, made: Cluster, tmp_path: Path) -> TableRig:
    return TableRig(sandbox, made.url, tmp_path)


def fill(rig: TableRig, client: Any, text: str = "v", count: int = COUNT) -> None:
    for number in range(count):
        client.hset(rig.key(number), "f", text)


def body(text: str) -> str:
    return orjson.dumps({"f": text}).decode()


def of_node(rig: TableRig, made: Cluster, number: int) -> list[int]:
    """Return the numbers of the keys that one of the primaries has."""
    slots = set(slots_in(made.slots_of(made.primaries()[number])))
    return [one for one in range(COUNT) if slot_of(rig.key(one).encode()) in slots]


def holds(rig: TableRig, expected: dict[int, str]) -> Any:
    return lambda: rig.items() == {str(number): body(text) for number, text in expected.items()}


def test_what_was_deleted_in_a_gap_is_found_on_all_nodes(rig: TableRig, made: Cluster) -> None:
    """While no engine runs, keys are deleted on every node, and slots move both ways: the table is equal afterwards."""
    client = made.client()
    expected = dict.fromkeys(range(COUNT), "v")
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, expected), "the table is full")
    for number in range(3):
        for key in of_node(rig, made, number)[:3]:
            client.delete(rig.key(key))
            del expected[key]
    first, second, third = made.primaries()
    for source, target, number in ((first, second, 0), (second, third, 1), (third, first, 2)):
        keys = of_node(rig, made, number)
        made.move_slots({slot_of(rig.key(key).encode()) for key in keys[:6]}, source, target)
        expected |= dict.fromkeys(keys[4:6], "new")
        for key in keys[4:6]:
            client.hset(rig.key(key), "f", "new")
    with rig.engine():
        wait_for(holds(rig, expected), "the table is equal")
    assert "deletions_held" not in rig.log()


def test_a_node_that_comes_back_empty_leaves_the_table(rig: TableRig, made: Cluster) -> None:
    """Its keys stay in the table until somebody decides, also those that are few; other nodes' values go on."""
    client = made.client()
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, dict.fromkeys(range(COUNT), "v")), "the table is full")
        lost, others = of_node(rig, made, 0), of_node(rig, made, 1)
        node = made.primaries()[0]
        node.kill()
        made.restart(node)
        made.wait_until_ok()
        wait_for(lambda: rig.status().get("deletions_held") == len(lost), "the deletions are held")
        client.hset(rig.key(others[0]), "f", "new")
        client.hset(rig.key(lost[0]), "f", "new")
        expected = dict.fromkeys(range(COUNT), "v") | {others[0]: "new", lost[0]: "new"}
        wait_for(holds(rig, expected), "values are delivered, and nothing is deleted")
        assert rig.run("deletions", "accept", "carts").returncode == 0
        for key in lost[1:]:
            del expected[key]
        wait_for(holds(rig, expected), "what is accepted is deleted")
        wait_for(lambda: rig.status()["deletions"] == [], "nothing is held any more")


def test_deletions_that_are_refused_stay(rig: TableRig, made: Cluster) -> None:
    """What was refused stays over restarts and audits, while what is deleted later goes."""
    client = made.client()
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, dict.fromkeys(range(COUNT), "v")), "the table is full")
        lost, others = of_node(rig, made, 0), of_node(rig, made, 1)
        node = made.primaries()[0]
        node.kill()
        made.restart(node)
        made.wait_until_ok()
        wait_for(lambda: rig.status().get("deletions_held") == len(lost), "the deletions are held")
    assert rig.run("deletions", "refuse", "carts").returncode == 0
    with rig.engine():
        wait_for(lambda: [one["kept"] for one in rig.status().get("deletions", [])] == [len(lost)], "they are kept")
    client.delete(rig.key(others[0]))
    with rig.engine():
        expected = dict.fromkeys((key for key in range(COUNT) if key != others[0]), "v")
        wait_for(holds(rig, expected), "what was deleted in the gap is gone")
        assert rig.run("audit", "--accept-deletions").returncode == 0
        assert holds(rig, expected)()


@pytest.mark.parametrize("made", [1], indirect=True)
def test_a_failover_holds_nothing(rig: TableRig, made: Cluster) -> None:
    """A replica that takes over is no new dataset: what was deleted around it leaves the table by itself."""
    client = made.client()
    expected = dict.fromkeys(range(COUNT), "v")
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, expected), "the table is full")
        keys = of_node(rig, made, 0)
        client.delete(rig.key(keys[0]))
        wait_until(lambda: made.primaries()[0].call("WAIT", 1, 100) == 1, "the replica has it")
        made.failover(made.primaries()[0])
        client = made.client()
        client.delete(rig.key(keys[1]))
        client.hset(rig.key(keys[2]), "f", "new")
        del expected[keys[0]], expected[keys[1]]
        expected[keys[2]] = "new"
        wait_for(holds(rig, expected), "the table is equal")
        client.hset(rig.key(keys[3]), "f", "new")
        expected[keys[3]] = "new"
        wait_for(holds(rig, expected), "and stays so")
    assert "deletions_held" not in rig.log()


def test_dead_letters_of_all_nodes_are_sent_again(rig: TableRig, made: Cluster) -> None:
    """Letters of keys on every node, of keys that moved, and of keys that are gone are sent, and are removed."""
    client = made.client()
    expected = dict.fromkeys(range(COUNT), "v")
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, expected), "the table is full")
        for number in range(3):
            there, gone, moved = of_node(rig, made, number)[:3]
            client.delete(rig.key(gone))
            del expected[gone]
            for key, event in ((there, "hset"), (gone, "del"), (moved, "hset")):
                rig.bury(key, event)
            source, target = made.primaries()[number], made.primaries()[(number + 1) % 3]
            made.move_slots([slot_of(rig.key(moved).encode())], source, target)
            for key in (there, moved):
                rig.forget(key)
        result = rig.run("redrive", "--json")
        summary = orjson.loads(result.stdout)
        assert (result.returncode, summary["sent"], summary["kept"]) == (0, 9, 0), result.stdout + result.stderr
        wait_for(holds(rig, expected), "all are delivered again")


def test_an_audit_repairs_while_slots_move(rig: TableRig, made: Cluster) -> None:
    """What the table lacks is repaired, what it holds is found in Redis, and no mark is lost, wherever slots are."""
    client = made.client()
    expected = dict.fromkeys(range(COUNT), "v")
    with rig.engine():
        fill(rig, client)
        wait_for(holds(rig, expected), "the table is full")
        # What a slot that moves brings along is delivered again by itself: others are forgotten.
        forgotten = [key for number in range(3) for key in of_node(rig, made, number)[6:10]]
        for key in forgotten:
            rig.forget(key)
        over = threading.Event()

        def move() -> None:
            nodes, turn = made.primaries(), 0
            keys = [of_node(rig, made, number)[:4] for number in range(3)]
            while not over.is_set():
                for number, ours in enumerate(keys):
                    slots = {slot_of(rig.key(key).encode()) for key in ours}
                    made.move_slots(slots, nodes[(number + turn) % 3], nodes[(number + turn + 1) % 3])
                    # A node that has not heard of this move yet would refuse the next.
                    made.wait_until_ok()
                    over.wait(1)
                turn += 1

        thread = threading.Thread(target=move)
        thread.start()
        try:
            result = rig.run("audit", "--repair", "--json")
        finally:
            over.set()
            thread.join()
        assert result.stdout.startswith("{"), result.stdout + result.stderr
        report = orjson.loads(result.stdout)["routes"][0]
        # A repair of what a node gained may have been there first; nothing else may differ, and no mark may be lost.
        assert report["missing"]["count"] == report["repaired"] <= len(forgotten)
        assert (report["unheard"], report["held"], report["extra"]["count"]) == (0, 0, 0)
        wait_for(holds(rig, expected), "the table is equal")
        made.wait_until_ok()
        result = rig.run("audit", "--json")
        assert result.returncode == 0, result.stdout + result.stderr
