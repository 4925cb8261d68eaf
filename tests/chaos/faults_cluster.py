"""Nodes of a cluster that fail, are replaced, come and go."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from typing import Any

from tests.chaos.faults_process import restarted
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run
from tests.cluster import Failover, Node

cluster_fault = functools.partial(fault, stage="cluster", wait_s=120.0, keys=300)
TWO_ENGINES: dict[str, Any] = {"engines": 2, "write_mode": "versioned", "rate": 80.0, "keys": 80}
TWO_SLICES: dict[str, Any] = {"engines": 2, "sliced": True, "rate": 200.0}
MORE_SHARDS: dict[str, Any] = {"capture": {"shards": 4}}
"""Than nodes: the heavy ones are cut."""


def some_primary(run: Run, *others: Node) -> Node:
    """Return a primary with slots by chance, but not the node that engines are told of, nor any of these."""
    made = run.cluster
    known = made.known()
    found = [node for node in made.primaries() if known[node.id].slots and node not in (made.nodes[0], *others)]
    if not found:
        raise NotStruck("there is no primary to strike")
    return run.rng.choice(found)


def epoch_of(run: Run) -> int:
    """Return the cluster's epoch, as far as any node knows."""
    return max(int(node.info()["cluster_current_epoch"]) for node in run.cluster.alive())


def fail_over(run: Run, primary: Node, how: Failover) -> tuple[Node, str]:
    """Have a replica take over; return it, and the evidence."""
    epoch = epoch_of(run)
    replica = run.cluster.failover(primary, how)
    return replica, f"{primary.address} → {replica.address} by {how}, epoch {epoch} → {epoch_of(run)}"


def failed_over(run: Run, primary: Node, how: Failover) -> str:
    """Have a replica take over; return the evidence."""
    return fail_over(run, primary, how)[1]


def well_again(run: Run) -> None:
    """Wait until the cluster is as clusters should be; the faults end there, and what comes then is the engine's."""
    run.cluster.wait_until_ok()
    run.healed()


@cluster_fault("cluster: a primary is killed and comes back")
def killed(run: Run) -> str:
    """What it had not replicated yet is lost, also what was delivered; it comes back empty, and follows."""
    primary = some_primary(run)
    evidence = failed_over(run, primary, "kill")
    run.sleep(run.rng.uniform(0.0, 2.0))
    run.cluster.restart(primary)
    well_again(run)
    return f"{evidence}, and started again"


@cluster_fault("cluster: a primary is killed for good", settings=MORE_SHARDS)
def killed_for_good(run: Run) -> str:
    return failed_over(run, some_primary(run), "kill")


@cluster_fault("cluster: a primary comes back empty, and leads again")
def leads_again(run: Run) -> str:
    primary = some_primary(run)
    replica, first = fail_over(run, primary, "kill")
    run.cluster.restart(primary)
    run.cluster.wait_until_ok()
    second = failed_over(run, replica, "CLUSTER FAILOVER")
    well_again(run)
    return f"{first}; {second}"


@cluster_fault("cluster: CLUSTER FAILOVER")
def told(run: Run) -> str:
    return failed_over(run, some_primary(run), "CLUSTER FAILOVER")


@cluster_fault("cluster: CLUSTER FAILOVER FORCE")
def forced(run: Run) -> str:
    return failed_over(run, some_primary(run), "CLUSTER FAILOVER FORCE")


@cluster_fault("cluster: CLUSTER FAILOVER TAKEOVER")
def taken_over(run: Run) -> str:
    return failed_over(run, some_primary(run), "CLUSTER FAILOVER TAKEOVER")


@cluster_fault("cluster: CLUSTER FAILOVER there and back, and again", write_mode="versioned")
def to_and_fro(run: Run) -> str:
    primary, done = some_primary(run), []
    for _ in range(3):
        primary, evidence = fail_over(run, primary, "CLUSTER FAILOVER")
        done.append(evidence)
        run.cluster.wait_until_ok()
    well_again(run)
    return "; ".join(done)


@cluster_fault("cluster: every primary fails over, one after another")
def rolling(run: Run) -> str:
    """As an upgrade of a managed cluster does it."""
    done = []
    for primary in [node for node in run.cluster.primaries() if run.cluster.slots_of(node)]:
        done.append(failed_over(run, primary, "CLUSTER FAILOVER"))
        run.cluster.kill(primary)
        run.cluster.restart(primary)
        run.cluster.wait_until_ok()
    well_again(run)
    return "; ".join(done)


@cluster_fault("cluster: a primary is halted, replaced, and goes on")
def halted(run: Run) -> str:
    """For a moment it still believes that it leads."""
    primary = some_primary(run)
    evidence = failed_over(run, primary, "stop")
    run.sleep(run.rng.uniform(0.0, 2.0))
    run.cluster.cont(primary)
    well_again(run)
    return f"{evidence}, and goes on"


@cluster_fault("cluster: a primary is halted for a moment, and not replaced")
def halted_briefly(run: Run) -> str:
    primary = some_primary(run)
    for _ in range(4):
        run.cluster.stop(primary)
        run.sleep(0.5)
        run.cluster.cont(primary)
        run.sleep(0.3)
    well_again(run)
    return f"{primary.address} halted 4 times for 0.5 s"


@cluster_fault("cluster: a slow primary", settings={"delivery": {"invokers": 1}})
def slow(run: Run) -> str:
    """It answers each request late; the keys of others are delivered meanwhile."""
    primary = some_primary(run)
    for _ in range(5):
        primary.call("CLIENT", "PAUSE", 700)
        run.sleep(0.8)
    return f"all clients of {primary.address} paused 5 times for 0.7 s"


@cluster_fault("cluster: the engine's connections to one node killed")
def clients_killed(run: Run) -> str:
    primary, ended = some_primary(run), 0
    for _ in range(5):
        for one in primary.client.client_list():
            if one["name"].startswith("engine"):
                ended += int(primary.call("CLIENT", "KILL", "ID", one["id"]))
        run.sleep(run.rng.uniform(0.05, 0.5))
    return f"{ended} connections to {primary.address} killed" if ended else ""


@cluster_fault("cluster: notifications off for a second on one node")
def flags_reset(run: Run) -> str:
    primary = some_primary(run)
    flags = primary.client.config_get("notify-keyspace-events")["notify-keyspace-events"]
    primary.client.config_set("notify-keyspace-events", "")
    run.sleep(1.0)
    now = primary.client.config_get("notify-keyspace-events")["notify-keyspace-events"]
    primary.client.config_set("notify-keyspace-events", flags)
    return f"{primary.address}: flags {flags!r} → {now!r} for a second" if flags else ""


@cluster_fault("cluster: one node flushed")
def flushed(run: Run) -> str:
    """A third of the keyspace is gone without an event; some of it is written again at once."""
    primary = some_primary(run)
    before = int(primary.call("DBSIZE"))
    run.writer.ledger.send((b"FLUSHALL",))
    primary.call("FLUSHALL")
    return f"{before} keys of {primary.address} flushed" if before else ""


@cluster_fault("cluster: a primary without slots joins, and leaves")
def empty(run: Run) -> str:
    node = run.cluster.add_node()
    run.sleep(2.0)
    run.cluster.remove_node(node)
    return f"{node.address} came and went"


@cluster_fault("cluster: a primary is cut off, and replaced", partitions=True)
def cut_off(run: Run) -> str:
    """Nobody reaches it, and it reaches nobody, until long after its replica has taken over."""
    primary = some_primary(run)
    (replica,) = run.cluster.replicas_of(primary)
    run.cluster.partition(primary)
    run.wait(lambda: replica.known()[replica.id].is_primary, "the replica takes over", 60.0)
    run.sleep(run.rng.uniform(0.5, 3.0))
    run.cluster.heal()
    well_again(run)
    return f"{primary.address} cut off, {replica.address} took over"


@cluster_fault("cluster: a primary and the engine's side of the network cut off together", partitions=True)
def minority(run: Run) -> str:
    """The engine goes on hearing the old primary, which others have replaced; what is written there is lost."""
    primary = some_primary(run)
    (replica,) = run.cluster.replicas_of(primary)
    run.cluster.partition(primary, clients=False)
    run.wait(lambda: replica.known()[replica.id].is_primary, "the replica takes over", 60.0)
    run.sleep(run.rng.uniform(0.5, 2.0))
    run.cluster.heal()
    well_again(run)
    return f"{primary.address} cut off from its peers alone, {replica.address} took over"


@cluster_fault("cluster: clients are cut off from one node", partitions=True)
def unreachable(run: Run) -> str:
    """The cluster itself is well: nobody fails over, and what is written there the writer cannot reach either."""
    primary = some_primary(run)
    epoch = run.cluster.nodes[0].info()["cluster_current_epoch"]
    run.cluster.partition(primary, peers=False)
    run.sleep(6.0)
    run.cluster.heal()
    well_again(run)
    return f"{primary.address} unreachable for 6 s, epoch {epoch}"


@cluster_fault("cluster: engine killed during a failover, and started after it")
def engine_killed(run: Run) -> str:
    engine, before, primary = run.engine, run.engine.pid, some_primary(run)
    run.cluster.kill(primary)
    engine.kill_all()
    run.cluster.wait_until_replaced(primary)
    run.sleep(run.rng.uniform(0.2, 1.0))
    return f"{primary.address} killed, {restarted(engine, before)}"


@cluster_fault("cluster: engine started in the midst of a failover")
def engine_started(run: Run) -> str:
    """It may refuse to start while a node is away that the others have not given up; it is then started again."""
    engine, before, primary = run.engine, run.engine.pid, some_primary(run)
    engine.kill_all()
    run.cluster.kill(primary)
    run.sleep(0.3)
    starts = 0

    def is_ready() -> bool:
        nonlocal starts
        if not engine.is_running():
            engine.launch()
            starts += 1
        return bool(engine.status().get("state") == "ready")

    run.wait(is_ready, "the engine is ready", 60.0)
    run.cluster.wait_until_replaced(primary)
    return f"{primary.address} killed, ready at start {starts}: {before} → {engine.pid}"


@cluster_fault("cluster: the node that redis.url names is killed, and the engine told of another")
def named_node_killed(run: Run) -> str:
    """The engine ends with its host, and is started with what is left: it is the same cluster, and its state holds."""
    engine, before, named = run.engine, run.engine.pid, run.cluster.nodes[0]
    engine.kill_all()
    evidence = failed_over(run, named, "kill")
    other = run.cluster.alive()[0]
    engine.change_settings({"redis": {"url": f"redis://{other.address}"}})
    return f"{evidence}; {restarted(engine, before)} with {other.address}"


@cluster_fault("cluster: the node that redis.url names is killed")
def named_node_fails(run: Run) -> str:
    """An engine that runs knows the others."""
    return failed_over(run, run.cluster.nodes[0], "kill")


@cluster_fault("cluster: replicas promoted while the engine is down")
def promoted_meanwhile(run: Run) -> str:
    engine, before = run.engine, run.engine.pid
    status = engine.stop()
    first = some_primary(run)
    done = [failed_over(run, first, "CLUSTER FAILOVER"), failed_over(run, some_primary(run, first), "kill")]
    run.sleep(0.5)
    return f"drained with {status}; {'; '.join(done)}; {restarted(engine, before)}"


@cluster_fault("cluster: children killed during a failover")
def children_killed(run: Run) -> str:
    primary = some_primary(run)
    run.cluster.kill(primary)
    ended = killed_children(run, ("subscriber", "invoker"))
    run.cluster.wait_until_replaced(primary)
    ended += killed_children(run, ("subscriber",))
    return f"{primary.address} killed, and {', '.join(ended)}"


def killed_children(run: Run, roles: Sequence[str]) -> list[str]:
    """Kill one child of each of these roles."""
    ended = []
    for role in roles:
        found = sorted((name, pid) for name, pid in run.engine.children().items() if name.startswith(role))
        if found:
            name, pid = run.rng.choice(found)
            os.kill(pid, signal.SIGKILL)
            ended.append(name)
    return ended


@cluster_fault("cluster: two engines, and a primary is killed", **TWO_ENGINES)
def two_engines(run: Run) -> str:
    evidence = failed_over(run, some_primary(run), "kill")
    run.rng.choice(run.engines).kill_all()
    return f"{evidence}; then one of two engines killed"


@cluster_fault("cluster: two slices, and each primary fails over", **TWO_SLICES)
def two_slices(run: Run) -> str:
    first = some_primary(run)
    done = [failed_over(run, first, "CLUSTER FAILOVER"), failed_over(run, some_primary(run, first), "kill")]
    return "; ".join(done)


@cluster_fault(
    "cluster: not all slots need be served, and a primary is killed",
    replicas=1,
    settings=MORE_SHARDS,
    server_config={"cluster-require-full-coverage": "no"},
)
def partial(run: Run) -> str:
    return failed_over(run, some_primary(run), "kill")
