"""Slots of a cluster that move from node to node, under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.crc import key_slot

from engine.routing.nodes import as_ranges
from tests.chaos.faults_cluster import (
    MORE_SHARDS,
    TWO_ENGINES,
    TWO_SLICES,
    cluster_fault,
    killed_children,
    some_primary,
    well_again,
)
from tests.chaos.faults_process import restarted
from tests.chaos.rig import NotStruck, Run
from tests.cluster import Migration, Node, moves

MIGRATES_SLOTS = ("valkey-9.1",)
SLOTS = 120


def busy_slots(run: Run, node: Node, count: int = SLOTS) -> list[int]:
    """Return slots of this node in which the writer has keys, by chance, and then some others."""
    ours = [slot for first, last in run.cluster.slots_of(node) for slot in range(first, last + 1)]
    written = {key_slot(key) for key in run.writer.keys}
    busy = [slot for slot in ours if slot in written]
    rest = [slot for slot in ours if slot not in written]
    if not busy:
        raise NotStruck("no key of the writer is there")
    run.rng.shuffle(busy)
    half = busy[: max(1, len(busy) * 2 // 3)]
    return half + rest[: max(0, count - len(half))]


def moved(
    run: Run, source: Node, target: Node, how: Migration, *, amid: Callable[[], Any] | None = None
) -> tuple[list[int], str]:
    """Move busy slots, and have something done in the middle of it; return them, and the evidence."""
    slots = busy_slots(run, source)
    half = len(slots) // 2
    run.cluster.move_slots(slots[:half], source, target, how)
    if amid is not None:
        amid()
    run.cluster.move_slots(slots[half:], source, target, how)
    return slots, f"{len(slots)} slots {source.address} → {target.address} by {how}"


def there_and_back(run: Run, how: Migration) -> str:
    source, target = some_primary(run), run.cluster.nodes[0]
    slots, evidence = moved(run, source, target, how)
    run.sleep(run.rng.uniform(0.0, 1.5))
    run.cluster.move_slots(slots, target, source, how)
    well_again(run)
    return f"{evidence}, and back"


@cluster_fault("slots: moved by MIGRATE, there and back")
def by_migrate(run: Run) -> str:
    return there_and_back(run, "migrate")


@cluster_fault("slots: moved by MIGRATESLOTS, there and back", only_on=MIGRATES_SLOTS)
def by_migrate_slots(run: Run) -> str:
    return there_and_back(run, "migrateslots")


@cluster_fault("slots: moved both ways, versioned writes", only_on=MIGRATES_SLOTS, write_mode="versioned")
def both_ways(run: Run) -> str:
    return f"{there_and_back(run, 'migrateslots')}; {there_and_back(run, 'migrate')}"


@cluster_fault("slots: given to a node that is added", settings=MORE_SHARDS)
def added(run: Run) -> str:
    source, node = some_primary(run), run.cluster.add_node()
    _, evidence = moved(run, source, node, "migrate")
    well_again(run)
    return f"{node.address} added; {evidence}"


@cluster_fault("slots: taken from a node, which is removed", replicas=0, primaries=4, keys=200)
def removed(run: Run) -> str:
    """All of its slots go to the others, as a cluster is made smaller."""
    node = some_primary(run)
    others = [other for other in run.cluster.primaries() if other is not node]
    slots = [slot for first, last in run.cluster.slots_of(node) for slot in range(first, last + 1)]
    written = {key_slot(key) for key in run.writer.keys}
    busy = [slot for slot in slots if slot in written]
    run.cluster.move_slots(busy, node, others[0])
    # No key is in the rest: it takes no migration to give it away.
    moves.hand_over([slot for slot in slots if slot not in written], node, others[1], [others[0], *others[2:]])
    run.cluster.remove_node(node)
    well_again(run)
    return f"{len(busy)} busy slots of {node.address} moved, all others given away; removed"


@cluster_fault("slots: an added node fails over at once", replicas=1)
def added_fails_over(run: Run) -> str:
    source, node = some_primary(run), run.cluster.add_node()
    replica = run.cluster.add_node(replica_of=node)
    _, evidence = moved(run, source, node, "migrate")
    run.cluster.wait_until_ok()
    run.cluster.failover(node, "kill")
    return f"{evidence}; {node.address} killed, {replica.address} took over"


@cluster_fault("slots: a slot stays half moved for seconds")
def half_moved(run: Run) -> str:
    """Keys of one slot are on two nodes: ASK sends readers to and fro; new ones are made on the target."""
    source, target = some_primary(run), run.cluster.nodes[0]
    slots = busy_slots(run, source)[:10]
    stay_half_moved(run, source, target, slots)
    return f"{len(slots)} slots {source.address} → {target.address}, half moved for 3 s"


def stay_half_moved(run: Run, source: Node, target: Node, slots: Sequence[int], keys_first: int = 0) -> None:
    """Move slots, which for three seconds are on both nodes; so many keys of each go ``keys_first``."""
    for slot in slots:
        moves.begin(slot, source, target)
        if keys_first:
            moves.move_some_keys(slot, source, target, at_once=keys_first)
    run.sleep(3.0)
    others = [node for node in run.cluster.primaries() if node not in (source, target)]
    for slot in slots:
        moves.move_keys(slot, source, target)
        run.sleep(0.1)
        moves.end(slot, source, target, others)
    well_again(run)


@cluster_fault("slots: a migration is given up")
def given_up(run: Run) -> str:
    """What had gone is brought back, and the slots stay where they were."""
    source, target = some_primary(run), run.cluster.nodes[0]
    slots = busy_slots(run, source)[:10]
    for slot in slots:
        moves.begin(slot, source, target)
        moves.move_keys(slot, source, target)
    run.sleep(1.0)
    run.writer.pause()
    for slot in slots:
        moves.give_up(slot, source, target)
    run.writer.start()
    well_again(run)
    return f"{len(slots)} slots {source.address} → {target.address} and back before they were handed over"


@cluster_fault("slots: the source is killed amid a migration")
def source_killed(run: Run) -> str:
    source, target = some_primary(run), run.cluster.nodes[0]
    slots = busy_slots(run, source)
    run.cluster.move_slots(slots[:30], source, target)
    after = run.cluster.failover(source, "kill")
    run.cluster.move_slots(slots[30:], after, target)
    well_again(run)
    return f"30 slots of {source.address} moved, {len(slots) - 30} of its successor {after.address}"


@cluster_fault("slots: MIGRATESLOTS is cancelled by a failover, and done again", only_on=MIGRATES_SLOTS)
def cancelled(run: Run) -> str:
    source, target = some_primary(run), run.cluster.nodes[0]
    slots = busy_slots(run, source)
    moves.begin_migration(as_ranges(slots), source, target)
    after = run.cluster.failover(source, "CLUSTER FAILOVER")
    run.cluster.wait_until_ok()
    state = moves.job(target).get("state", "none")
    left = [slot for slot in slots if any(first <= slot <= last for first, last in run.cluster.slots_of(after))]
    if left:
        run.cluster.move_slots(left, after, target, "migrateslots")
    well_again(run)
    return f"{len(slots)} slots, {state} after the failover, {len(left)} moved again"


@cluster_fault("slots: a subscriber is killed amid a migration")
def subscriber_killed(run: Run) -> str:
    return amid_a_migration(run, "subscriber")


@cluster_fault("slots: an invoker is killed amid a migration")
def invoker_killed(run: Run) -> str:
    return amid_a_migration(run, "invoker")


def amid_a_migration(run: Run, role: str) -> str:
    """Move slots, and kill a child of the engine twice meanwhile."""
    ended: list[str] = []
    source, target = some_primary(run), run.cluster.nodes[0]
    _, evidence = moved(run, source, target, "migrate", amid=lambda: ended.extend(killed_children(run, (role,))))
    ended += killed_children(run, (role,))
    return f"{evidence}; killed: {', '.join(ended)}" if ended else ""


@cluster_fault("slots: moved while the engine is down")
def engine_down(run: Run) -> str:
    engine, before, source = run.engine, run.engine.pid, some_primary(run)
    status = engine.stop()
    _, evidence = moved(run, source, run.cluster.nodes[0], "migrate")
    gone = run.rng.sample(run.writer.keys, 5)
    for key in gone:
        run.writer.execute("DEL", key)
    return f"drained with {status}; {evidence}; {restarted(engine, before)}"


@cluster_fault("slots: kill -9 everything amid a migration, started after it")
def everything_killed(run: Run) -> str:
    engine, before, source = run.engine, run.engine.pid, some_primary(run)
    _, evidence = moved(run, source, run.cluster.nodes[0], "migrate", amid=engine.kill_all)
    run.sleep(0.5)
    return f"{evidence}; {restarted(engine, before)}"


@cluster_fault("slots: a hash tag that holds most keys moves, there and back")
def hash_tag(run: Run) -> str:
    """All keys of a tag are in one slot: a migration of one slot, in steps of a few keys, under writes to them."""
    keys = [b"{tag}:%03d" % number for number in range(300)]
    run.writer.write_now([run.writer.change(key) for key in keys])
    slot, source = key_slot(keys[0]), run.cluster.owner_of(keys[0])
    target = next(node for node in run.cluster.primaries() if node is not source)
    others = [node for node in run.cluster.primaries() if node not in (source, target)]
    for one, other in ((source, target), (target, source)):
        moves.begin(slot, one, other)
        while moves.move_some_keys(slot, one, other, at_once=20):
            run.writer.write_now([run.writer.change(key) for key in run.rng.sample(keys, 10)])
        moves.end(slot, one, other, others)
        run.writer.write_now([run.writer.change(key) for key in run.rng.sample(keys, 50)])
    well_again(run)
    return f"slot {slot} with {len(keys)} keys {source.address} → {target.address}, and back"


@cluster_fault("slots: two engines on the same keys", **TWO_ENGINES)
def two_engines(run: Run) -> str:
    return there_and_back(run, "migrate")


@cluster_fault("slots: two engines on the same keys, one killed after slots were half moved", **TWO_ENGINES)
def two_engines_one_killed(run: Run) -> str:
    """What one engine alone has seen of a migration must not lift its versions above the other's."""
    evidence = half_moved(run)
    run.rng.choice(run.engines).kill_all()
    return f"{evidence}; then one of two engines killed"


@cluster_fault("slots: two slices, one of them killed amid a migration", **TWO_SLICES)
def two_slices(run: Run) -> str:
    one = run.rng.choice(run.engines)
    before = one.pid
    source = some_primary(run)
    _, evidence = moved(run, source, run.cluster.nodes[0], "migrate", amid=one.kill_all)
    return f"{evidence}; a slice was killed, {restarted(one, before)}"


@cluster_fault(
    "slots: taken from a node, which follows another then",
    replicas=0,
    server_config={"cluster-allow-replica-migration": "yes"},
    only_on=("valkey-9.1", "redis-8.2", "redis-7.0"),
)
def becomes_replica(run: Run) -> str:
    """As servers have it by default: a primary that lost its last slot becomes a replica of who got it."""
    node = run.cluster.add_node()
    source = some_primary(run, node)
    slots, evidence = moved(run, source, node, "migrate")
    run.sleep(1.0)
    run.cluster.move_slots(slots, node, source)
    run.wait(lambda: node in run.cluster.replicas_of(source), "the emptied node becomes a replica")
    well_again(run)
    return f"{evidence}, and back; {node.address} follows {source.address}"
