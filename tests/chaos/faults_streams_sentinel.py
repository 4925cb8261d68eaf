"""Streams of a primary that Sentinels watch: what a failover loses of entries, groups and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos import faults_sentinel
from tests.chaos.faults_process import kill_child, restarted
from tests.chaos.faults_sentinel import failed_over
from tests.chaos.faults_sentinel import outdated_writer as stays_behind
from tests.chaos.faults_streams import CAPTURE, GROUP, STREAM, undone
from tests.chaos.registry import fault
from tests.chaos.rig import Run
from tests.cluster import Node


def sentinel_streams_fault(name: str, **options: Any) -> Callable[[Callable[[Run], str]], Callable[[Run], str]]:
    """Register a fault of an engine that reads a stream at whichever server leads.

    A failover may lose writes, so no key is ever deleted: one that lost writes alone have made is not found by a scan.
    """
    ours: dict[str, Any] = {"stage": "sentinel", "wait_s": 120.0, "settings": {"capture": CAPTURE}, "deletes": 0.0}
    return fault(f"streams under Sentinels: {name}", streams=True, **ours | options)


def pending_at(node: Node) -> int:
    """Return how many entries the group was given and has not acknowledged."""
    return sum(int(group["pending"]) for group in node.client.xinfo_groups(STREAM) if group["name"] == GROUP.encode())


sentinel_streams_fault("the primary is killed and comes back")(faults_sentinel.killed)


def engine_killed_after(run: Run, strike: Callable[[Run], str]) -> str:
    """Strike, kill the engine, and start it a moment later; return the evidence of both."""
    evidence, before = strike(run), run.engine.pid
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.0, 1.0))
    return f"{evidence}; {restarted(run.engine, before)}"


@sentinel_streams_fault("the primary is killed while entries are unacknowledged")
def killed_with_pending(run: Run) -> str:
    run.stop_functions()
    pending = run.wait(lambda: pending_at(run.watched.primary()), "entries are unacknowledged")
    evidence = failed_over(run, "kill")
    run.start_functions()
    return f"{pending} entries unacknowledged; {evidence}"


sentinel_streams_fault("SENTINEL FAILOVER", deletes=0.03)(faults_sentinel.told)
# Entries and values of the old primary are read, delivered and lost: what the new one has is right.
sentinel_streams_fault("the writer stays where it was")(faults_sentinel.outdated_writer)


@sentinel_streams_fault("the writer stays where it was, and a subscriber is killed")
def outdated_writer_and_subscriber(run: Run) -> str:
    """Whoever read what was lost is gone: its successor has to know what the entries were of."""
    evidence = stays_behind(run)
    return f"{evidence}; {kill_child(run, 'subscriber')}"


@sentinel_streams_fault("the writer stays where it was, and the engine is killed")
def outdated_writer_and_engine(run: Run) -> str:
    """The checkpoint has to say of which server's history it is."""
    return engine_killed_after(run, stays_behind)


sentinel_streams_fault("the primary is halted, replaced, and goes on")(faults_sentinel.halted)


@sentinel_streams_fault("a subscriber is killed during a failover")
def subscriber_killed(run: Run) -> str:
    first = kill_child(run, "subscriber")
    evidence = failed_over(run, "kill")
    return f"{first}; {evidence}; {kill_child(run, 'subscriber')}"


@sentinel_streams_fault("a failover while the engine is down")
def engine_down(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    evidence = failed_over(run, "SENTINEL FAILOVER")
    return f"{evidence}; {restarted(run.engine, before)}"


@sentinel_streams_fault("a failover that loses a second of entries and values")
def loses(run: Run) -> str:
    return lost_by_failover(run)


@sentinel_streams_fault("a failover that loses a second, and a subscriber is killed")
def loses_and_subscriber(run: Run) -> str:
    """Whoever read what was lost is gone: its successor has to know of which history that was."""
    evidence = lost_by_failover(run)
    return f"{evidence}; {kill_child(run, 'subscriber')}"


@sentinel_streams_fault("a failover that loses a second, and the engine is killed")
def loses_and_engine(run: Run) -> str:
    """The checkpoint has to say of which history it is."""
    return engine_killed_after(run, lost_by_failover)


def lost_by_failover(run: Run) -> str:
    """Have values and their entries be delivered that no replica has, and the primary be replaced."""
    primary, replicas = run.watched.primary(), run.watched.replicas()
    evidence = undone(run, primary, replicas, run.rng.sample(run.writer.keys, 60))
    primary.kill()
    for replica in replicas:
        replica.cont()
    run.wait(lambda: run.watched.primary() is not primary, "another leads", 60.0)
    after = run.watched.primary()
    run.wait(lambda: after.client.info("replication")["role"] == "master", "it knows that")
    run.writer.reconnect()
    run.writer.start()
    return f"{evidence}; {primary.address} → {after.address}"
