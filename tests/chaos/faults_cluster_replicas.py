"""Replicas that are captured and read in their primaries' place: lost, cut off, promoted, behind, synchronized anew."""

from __future__ import annotations

import functools
from typing import Any

from tests.chaos.faults_cluster import cluster_fault, fail_over, well_again
from tests.chaos.faults_sentinel import failed_over as sentinel_failed_over
from tests.chaos.faults_sentinel import sentinel_fault
from tests.chaos.rig import NotStruck, Run
from tests.cluster import Node

READS_REPLICAS: dict[str, Any] = {"redis": {"read_from": "replica"}, "capture": {"topology_interval_ms": 1_000}}

replica_fault = functools.partial(cluster_fault, settings=READS_REPLICAS)


def reads_at(run: Run) -> list[str]:
    """Return where the engine captures and reads, as it says itself."""
    return [one["reads_at"] for one in run.engine.status().get("nodes", ())]


def some_read(run: Run) -> Node:
    """Return a replica that is read, by chance."""
    places = run.wait(lambda: [place for place in reads_at(run) if place], "replicas are read")
    place = run.rng.choice(places)
    return next(node for node in run.cluster.nodes if node.address == place)


def is_left(run: Run, replica: Node) -> None:
    """Wait until a replica is not read any more."""
    run.wait(lambda: replica.address not in reads_at(run), f"{replica.address} is left", 60.0)


@replica_fault("replicas: one that is read is killed, and comes back", replicas=2)
def killed(run: Run) -> str:
    replica = some_read(run)
    run.cluster.kill(replica)
    is_left(run, replica)
    run.cluster.restart(replica)
    well_again(run)
    return f"{replica.address} killed, left, started again"


@replica_fault("replicas: all of them are killed, and come back")
def all_killed(run: Run) -> str:
    """Meanwhile the primaries are captured and read."""
    some_read(run)
    replicas = [node for node in run.cluster.alive() if node not in run.cluster.primaries()]
    for replica in replicas:
        run.cluster.kill(replica)
    run.wait(lambda: not any(reads_at(run)), "the primaries are read", 60.0)
    run.sleep(run.rng.uniform(0.2, 1.0))
    for replica in replicas:
        run.cluster.restart(replica)
    run.cluster.wait_until_ok()
    run.wait(lambda: all(reads_at(run)), "replicas are read again", 60.0)
    run.healed()
    return f"{len(replicas)} replicas killed, primaries read, replicas read again"


@replica_fault("replicas: one that is read is cut off from everybody", partitions=True)
def cut_off(run: Run) -> str:
    replica = some_read(run)
    run.cluster.partition(replica)
    is_left(run, replica)
    run.sleep(run.rng.uniform(0.2, 2.0))
    run.cluster.heal()
    well_again(run)
    return f"{replica.address} cut off, left, and back"


@replica_fault("replicas: one that is read is cut off from its primary alone", partitions=True)
def parted(run: Run) -> str:
    """It answers, and hears nothing: its values are those of then."""
    replica = some_read(run)
    run.cluster.partition(replica, clients=False)
    is_left(run, replica)
    run.sleep(run.rng.uniform(0.2, 2.0))
    run.cluster.heal()
    well_again(run)
    return f"{replica.address} parted from its primary, left, and back"


@replica_fault("replicas: one that is read is promoted, there and back", write_mode="versioned")
def promoted(run: Run) -> str:
    replica = some_read(run)
    primary = run.cluster.node(run.cluster.known()[replica.id].primary_id)
    _, first = fail_over(run, primary, "CLUSTER FAILOVER")
    run.cluster.wait_until_ok()
    _, second = fail_over(run, replica, "CLUSTER FAILOVER")
    well_again(run)
    return f"{first}; {second}"


@replica_fault("replicas: the primary of one that is read is killed for good")
def orphaned(run: Run) -> str:
    replica = some_read(run)
    primary = run.cluster.node(run.cluster.known()[replica.id].primary_id)
    return fail_over(run, primary, "kill")[1]


@replica_fault("replicas: one that is read lags again and again")
def lagging(run: Run) -> str:
    replica = some_read(run)
    for _ in range(4):
        run.cluster.stop(replica)
        run.sleep(run.rng.uniform(0.3, 0.9))
        run.cluster.cont(replica)
        run.sleep(0.3)
    well_again(run)
    return f"{replica.address} halted 4 times for up to 0.9 s"


@replica_fault("replicas: one that is read is synchronized anew", server_config={"repl-backlog-size": "16384"})
def synchronized(run: Run) -> str:
    """It lost its link for longer than its primary remembers: another dataset takes the place of its own, unheard."""
    replica = some_read(run)
    primary = run.cluster.node(run.cluster.known()[replica.id].primary_id)
    before = int(primary.client.info("stats")["sync_full"])

    def anew() -> int:
        run.cluster.stop(replica)
        run.sleep(0.8)
        primary.call("CLIENT", "KILL", "TYPE", "replica")
        for _ in range(30):
            run.writer.write_now([run.writer.change(key) for key in run.writer.keys])
        run.cluster.cont(replica)
        run.sleep(0.5)
        return int(primary.client.info("stats")["sync_full"]) - before

    count = run.wait(anew, "it is synchronized anew", 30.0)
    well_again(run)
    return f"{replica.address} synchronized anew {count} times" if count else ""


@sentinel_fault("replicas: read under Sentinels, and the primary is killed", settings=READS_REPLICAS)
def watched(run: Run) -> str:
    if not run.wait(lambda: any(reads_at(run)), "a replica is read"):
        raise NotStruck("no replica is read")
    return sentinel_failed_over(run, "kill")
