"""Failovers of a primary that Sentinels watch."""

from __future__ import annotations

import functools
import time
from typing import Literal

from tests.chaos.faults_cluster import TWO_ENGINES, killed_children
from tests.chaos.faults_process import restarted
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run

sentinel_fault = functools.partial(fault, stage="sentinel", wait_s=120.0)


def failed_over(run: Run, how: Literal["kill", "stop", "SENTINEL FAILOVER"]) -> str:
    """Have another server lead; return the evidence."""
    before = run.watched.primary()
    after = run.watched.failover(how)
    run.writer.reconnect()
    return f"{before.address} → {after.address} by {how}"


@sentinel_fault("sentinel: the primary is killed and comes back")
def killed(run: Run) -> str:
    """What it had not replicated is lost, also what was delivered; it comes back empty, and is made a replica."""
    before = run.watched.primary()
    evidence = failed_over(run, "kill")
    run.sleep(run.rng.uniform(0.5, 2.0))
    run.watched.restart(before)
    run.healed()
    return f"{evidence}, and started again"


@sentinel_fault("sentinel: SENTINEL FAILOVER")
def told(run: Run) -> str:
    return failed_over(run, "SENTINEL FAILOVER")


@sentinel_fault("sentinel: SENTINEL FAILOVER, and the writer stays where it was", write_mode="versioned")
def outdated_writer(run: Run) -> str:
    """Until a Sentinel demotes it, the old primary takes writes that are lost then; the new one's values are right."""
    before, errors = run.watched.primary(), run.writer.errors
    after, began, acknowledged = run.watched.failover("SENTINEL FAILOVER"), time.monotonic(), run.writer.acknowledged
    run.wait(lambda: run.writer.errors > errors, "the old primary is demoted", 60.0)
    written, took_s = run.writer.acknowledged - acknowledged, time.monotonic() - began
    if not written:
        raise NotStruck("the old primary took no writes")
    return f"{before.address} → {after.address}, and {written} writes in {took_s:.1f} s at the old one"


@sentinel_fault("sentinel: the primary is halted, replaced, and goes on", write_mode="versioned")
def halted(run: Run) -> str:
    """It believes that it leads until a Sentinel tells it otherwise, up to ten seconds."""
    before = run.watched.primary()
    evidence = failed_over(run, "stop")
    before.cont()
    run.wait(lambda: before in run.watched.replicas(), "the old primary follows", 60.0)
    return f"{evidence}, and goes on"


@sentinel_fault("sentinel: the first Sentinel and the primary are killed")
def guard_killed(run: Run) -> str:
    """Two of three can still agree; the engine has to ask the others."""
    guard = run.watched.guards[0]
    guard.kill()
    return f"Sentinel {guard.address} killed; {failed_over(run, 'kill')}"


@sentinel_fault("sentinel: children killed during a failover")
def children_killed(run: Run) -> str:
    ended = killed_children(run, ("subscriber", "invoker"))
    evidence = failed_over(run, "kill")
    ended += killed_children(run, ("subscriber", "invoker"))
    return f"{evidence}; killed: {', '.join(ended)}"


@sentinel_fault("sentinel: failover while the engine is down")
def engine_down(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    evidence = failed_over(run, "SENTINEL FAILOVER")
    return f"{evidence}; {restarted(run.engine, before)}"


@sentinel_fault("sentinel: two engines, and the primary is killed", **TWO_ENGINES)
def two_engines(run: Run) -> str:
    return failed_over(run, "kill")
