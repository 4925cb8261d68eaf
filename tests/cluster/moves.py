"""Slots that move from node to node, in both ways that there are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import redis

from engine.routing.nodes import as_ranges, slots_in
from engine.sandbox import ports
from tests.cluster.nodes import ADMIN, SECRET, WAIT_S, Node, wait_until

_LOOK_S = 0.02
_MIGRATE_MS = 10_000


def assign(node: Node, slots: tuple[int, int], *, one_by_one: bool) -> None:
    """Give a node slots that nobody has."""
    if one_by_one:
        node.call("CLUSTER", "ADDSLOTS", *slots_in([slots]))
    else:
        node.call("CLUSTER", "ADDSLOTSRANGE", *slots)


def move_slot(slot: int, source: Node, target: Node, others: Iterable[Node], *, with_user: bool = False) -> None:
    """Move a slot by ``SETSLOT`` and ``MIGRATE``, as redis-cli does; the ``others`` are told of its owner."""
    begin(slot, source, target)
    move_keys(slot, source, target, with_user=with_user)
    end(slot, source, target, others)


def begin(slot: int, source: Node, target: Node) -> None:
    """Have the slot migrate: from now on the source sends those elsewhere who ask for keys that it has not."""
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)


def move_keys(slot: int, source: Node, target: Node, *, with_user: bool = False) -> None:
    """Move what a migrating slot holds."""
    while move_some_keys(slot, source, target, with_user=with_user):
        pass


def move_some_keys(slot: int, source: Node, target: Node, *, at_once: int = 100, with_user: bool = False) -> int:
    """Move so many keys of a migrating slot; return how many it had."""
    who = ["AUTH2", ADMIN, SECRET] if with_user else []
    keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, at_once)
    if keys:
        source.call("MIGRATE", ports.HOST, target.port, "", 0, _MIGRATE_MS, *who, "KEYS", *keys)
    return len(keys)


def give_up(slot: int, source: Node, target: Node) -> None:
    """End a migration where it began: what has gone to the target comes back. Nobody may write meanwhile."""
    source.call("CLUSTER", "SETSLOT", slot, "STABLE")
    move_keys(slot, target, source)
    target.call("CLUSTER", "SETSLOT", slot, "STABLE")


def hand_over(slots: Sequence[int], source: Node, target: Node, others: Iterable[Node]) -> None:
    """Give away slots that hold nothing, all at once."""
    _set_slots(target, slots, "IMPORTING", source.id)
    for node in (target, source, *others):
        _set_slots(node, slots, "NODE", target.id)


def _set_slots(node: Node, slots: Iterable[int], *what: str) -> None:
    pipeline = node.client.pipeline(transaction=False)
    for slot in slots:
        pipeline.execute_command("CLUSTER SETSLOT", slot, *what)
    pipeline.execute()


def end(slot: int, source: Node, target: Node, others: Iterable[Node]) -> None:
    """Have the target own the slot, and the others know."""
    for node in (target, source, *others):
        try:
            node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        except redis.ResponseError as error:
            # It has lost its last slot, heard so by itself, and follows the new owner.
            if node is target or "only with masters" not in str(error):
                raise


def migrate_slots(slots: Iterable[int], source: Node, target: Node) -> None:
    """Have Valkey 9's nodes move slots by themselves; the source hands them over as it would feed a replica."""
    ranges = as_ranges(slots)
    begin_migration(ranges, source, target)
    wanted = set(slots_in(ranges))
    deadline = time.monotonic() + WAIT_S
    while not wanted <= set(slots_in(target.known()[target.id].slots)):
        state = job(source)
        assert state.get("state") not in {"failed", "cancelled"}, f"the migration ended: {state}"
        assert time.monotonic() < deadline, f"the migration did not end: {state}"
        time.sleep(_LOOK_S)
    wait_until(lambda: not wanted & set(slots_in(source.known()[source.id].slots)), "the source knows the new owner")


def begin_migration(ranges: Sequence[tuple[int, int]], source: Node, target: Node) -> None:
    """Start moving ranges of slots by ``CLUSTER MIGRATESLOTS``."""
    words = [word for first, last in ranges for word in (first, last)]
    source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *words, "NODE", target.id)


def job(node: Node) -> dict[str, str]:
    """Return the newest migration that this node has a part in."""
    jobs = node.call("CLUSTER", "GETSLOTMIGRATIONS")
    if not jobs:
        return {}
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in jobs[0]]
    return dict(zip(words[::2], words[1::2], strict=True))
