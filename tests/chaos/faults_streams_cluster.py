"""Streams in a cluster, each with its keys in one slot: nodes that fail under their readers, slots that move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.crc import key_slot

from engine.routing.nodes import as_ranges
from tests.chaos import faults_cluster
from tests.chaos.faults_cluster import TWO_SLICES, fail_over, failed_over, killed_children, some_primary, well_again
from tests.chaos.faults_cluster_slots import MIGRATES_SLOTS, stay_half_moved, there_and_back
from tests.chaos.faults_process import kill_child, restarted
from tests.chaos.faults_streams import CAPTURE, GROUP, undone
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run
from tests.cluster import Node, moves

TAGS = 12
STREAMS = [f"changes:{{{tag}}}" for tag in range(TAGS)]
LOSES: dict[str, Any] = {"deletes": 0.0}
"""Where writes are lost: a key that lost writes alone have made is not found by a scan, and its value stays."""


def cluster_streams_fault(name: str, **options: Any) -> Callable[[Callable[[Run], str]], Callable[[Run], str]]:
    """Register a fault of an engine that reads a stream for each hash tag of the keys."""
    settings = {"capture": CAPTURE | {"streams": STREAMS} | options.pop("capture", {})}
    ours: dict[str, Any] = {"stage": "cluster", "wait_s": 120.0, "keys": 300, "settings": settings, "tags": TAGS}
    return fault(f"streams in a cluster: {name}", streams=True, **ours | options)


def streams_at(run: Run, node: Node) -> list[str]:
    """Return the streams whose slot a node has; there are some."""
    owned = run.cluster.slots_of(node)
    found = [name for name in STREAMS if any(first <= key_slot(name.encode()) <= last for first, last in owned)]
    if not found:
        raise NotStruck(f"{node.address} has no stream")
    return found


def read_so_far(run: Run, node: Node) -> int:
    """Return how many entries the groups at a node were given and have not acknowledged."""
    return sum(int(group["pending"]) for name in streams_at(run, node) for group in node.client.xinfo_groups(name))


@cluster_streams_fault("a primary is killed and comes back", **LOSES)
def killed(run: Run) -> str:
    primary = some_primary(run)
    evidence = f"{len(streams_at(run, primary))} streams; {failed_over(run, primary, 'kill')}"
    run.sleep(run.rng.uniform(0.0, 2.0))
    run.cluster.restart(primary)
    well_again(run)
    return f"{evidence}, and started again"


@cluster_streams_fault("a primary is killed while entries are unacknowledged", **LOSES)
def killed_with_pending(run: Run) -> str:
    """What was read and not delivered yet is pending at the replica, as far as it was replicated."""
    primary = some_primary(run)
    run.stop_functions()
    pending = run.wait(lambda: read_so_far(run, primary), "entries are unacknowledged")
    evidence = failed_over(run, primary, "kill")
    run.start_functions()
    return f"{pending} entries unacknowledged; {evidence}"


def lost_by_failover(run: Run) -> str:
    """Have a primary of streams be replaced by a replica that lacks what was delivered last."""
    primary = some_primary(run)
    (replica,) = run.cluster.replicas_of(primary)
    tags = [name.removeprefix("changes:").encode() for name in streams_at(run, primary)]
    keys = [key for key in run.writer.keys if key.startswith(tuple(tags))]
    evidence = undone(run, primary, [replica], run.rng.sample(keys, min(len(keys), 60)))
    run.cluster.kill(primary)
    run.cluster.cont(replica)
    run.cluster.wait_until_led_by(replica)
    run.writer.start()
    return f"{evidence}; {primary.address} → {replica.address}"


@cluster_streams_fault("a failover that loses acknowledged writes", **LOSES)
def loses(run: Run) -> str:
    return lost_by_failover(run)


@cluster_streams_fault("a failover that loses acknowledged writes, and a subscriber is killed", **LOSES)
def loses_and_subscriber(run: Run) -> str:
    evidence = lost_by_failover(run)
    return f"{evidence}; {kill_child(run, 'subscriber')}"


@cluster_streams_fault("a failover that loses acknowledged writes, and the engine is killed", **LOSES)
def loses_and_engine(run: Run) -> str:
    evidence, before = lost_by_failover(run), run.engine.pid
    run.engine.kill_all()
    return f"{evidence}; {restarted(run.engine, before)}"


@cluster_streams_fault("CLUSTER FAILOVER there and back")
def to_and_fro(run: Run) -> str:
    primary, first = fail_over(run, some_primary(run), "CLUSTER FAILOVER")
    run.cluster.wait_until_ok()
    _, second = fail_over(run, primary, "CLUSTER FAILOVER")
    well_again(run)
    return f"{first}; {second}"


cluster_streams_fault("CLUSTER FAILOVER TAKEOVER", **LOSES)(faults_cluster.taken_over)
cluster_streams_fault("a primary is halted, replaced, and goes on", **LOSES)(faults_cluster.halted)
cluster_streams_fault("a primary is cut off, and replaced", partitions=True, **LOSES)(faults_cluster.cut_off)
# Entries are read and delivered at the old primary that are lost with it, and so are their keys' values.
cluster_streams_fault("a primary and the engine's side of the network cut off together", partitions=True, **LOSES)(
    faults_cluster.minority
)


@cluster_streams_fault("a subscriber is killed during a failover", **LOSES)
def subscriber_killed(run: Run) -> str:
    primary = some_primary(run)
    run.cluster.kill(primary)
    ended = killed_children(run, ("subscriber",))
    run.cluster.wait_until_replaced(primary)
    ended += killed_children(run, ("subscriber",))
    return f"{primary.address} killed, and {', '.join(ended)}"


@cluster_streams_fault("a failover while the engine is down", **LOSES)
def engine_down(run: Run) -> str:
    engine, before = run.engine, run.engine.pid
    engine.kill_all()
    evidence = failed_over(run, some_primary(run), "kill")
    run.sleep(run.rng.uniform(0.2, 1.0))
    return f"{evidence}; {restarted(engine, before)}"


@cluster_streams_fault("slots moved by MIGRATE, there and back")
def by_migrate(run: Run) -> str:
    return there_and_back(run, "migrate")


@cluster_streams_fault("slots moved by MIGRATESLOTS, there and back", only_on=MIGRATES_SLOTS)
def by_migrate_slots(run: Run) -> str:
    return there_and_back(run, "migrateslots")


@cluster_streams_fault("a slot stays half moved for seconds")
def half_moved(run: Run) -> str:
    """First the stream is at one node and its keys are at the other; whoever writes both is told to try again."""
    source, target = some_primary(run), run.cluster.nodes[0]
    names = streams_at(run, source)
    stay_half_moved(run, source, target, [key_slot(name.encode()) for name in names], keys_first=3)
    return f"{len(names)} streams {source.address} → {target.address}, half moved for 3 s"


@cluster_streams_fault("the groups are deleted while their slots move")
def group_deleted(run: Run) -> str:
    """Before, in the midst of, and after the move."""
    source, target = some_primary(run), run.cluster.nodes[0]
    names = streams_at(run, source)
    others = [node for node in run.cluster.primaries() if node not in (source, target)]
    deleted = 0
    for number, name in enumerate(names):
        slot = key_slot(name.encode())
        turn = (number + run.rng.randrange(3)) % 3
        if turn == 0:
            deleted += int(source.call("XGROUP", "DESTROY", name, GROUP))
        moves.begin(slot, source, target)
        if turn == 1:
            run.sleep(0.1)
            deleted += int(source.call("XGROUP", "DESTROY", name, GROUP))
        moves.move_keys(slot, source, target)
        moves.end(slot, source, target, others)
        if turn == 2:
            deleted += int(target.call("XGROUP", "DESTROY", name, GROUP))
    well_again(run)
    run.wait(lambda: all(target.client.xinfo_groups(name) for name in names), "the groups are made anew", 60.0)
    slots = as_ranges([key_slot(name.encode()) for name in names])
    return f"{deleted} of {len(names)} groups deleted, slots {slots} moved" if deleted else ""


@cluster_streams_fault("two slices, and a primary is killed", **LOSES, **TWO_SLICES)
def two_slices(run: Run) -> str:
    return failed_over(run, some_primary(run), "kill")
