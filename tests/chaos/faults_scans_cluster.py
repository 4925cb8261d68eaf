"""Passes over a cluster, and over servers that Sentinels watch: nodes that fail amid a pass, slots that move in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tests.chaos.faults_cluster import TWO_SLICES, children_killed, fail_over, failed_over, some_primary, well_again
from tests.chaos.faults_cluster_slots import MIGRATES_SLOTS, moved
from tests.chaos.faults_process import restarted
from tests.chaos.faults_scans import SILENT, UNCHANGED
from tests.chaos.faults_sentinel import failed_over as replaced
from tests.chaos.faults_sentinel import outdated_writer as stays_behind
from tests.chaos.registry import fault
from tests.chaos.rig import Run
from tests.cluster import Migration

KEYS, PERIOD_S = 3_000, 2.0
"""A pass takes longer than a second: what strikes strikes amid one."""
SCANS: dict[str, Any] = {"capture": {"source": "scan", "scan_period_s_max": PERIOD_S}}

scan_fault = functools.partial(
    fault, settings=SCANS, route=UNCHANGED, server_config=SILENT, keys=KEYS, rate=600.0, warm_s=3.0, wait_s=150.0
)
cluster_fault = functools.partial(scan_fault, stage="cluster")
sentinel_fault = functools.partial(scan_fault, stage="sentinel")


def further_passes(run: Run, count: int = 3) -> None:
    """Wait for passes that begin after now."""
    before = [int(engine.totals()["repairs"]) for engine in run.engines]
    nodes = len(run.cluster.primaries()) if run.fault.stage == "cluster" else 1

    def are_over() -> bool:
        now = [int(engine.totals()["repairs"]) for engine in run.engines]
        return all(one >= first + count * nodes for one, first in zip(now, before, strict=True))

    run.wait(are_over, "passes go on", 60.0)


def deleted(run: Run) -> Sequence[str]:
    """Return the keys that the function was told are gone."""
    events = [one["event"] for one in run.invocations() if isinstance(one.get("event"), dict)]
    return sorted({record["id"] for event in events for record in event["records"] if record["body"] is None})


def nothing_deleted(run: Run) -> None:
    """Raise where a key was taken for deleted: the writer deletes none (``deletes=0.0``)."""
    if gone := deleted(run):
        raise AssertionError(f"taken for deleted: {len(gone)} keys, such as {gone[:3]}")


@cluster_fault("scan in a cluster: a primary is killed amid a pass, and comes back")
def killed(run: Run) -> str:
    primary = some_primary(run)
    run.sleep(run.rng.uniform(0.0, PERIOD_S))
    evidence = failed_over(run, primary, "kill")
    run.sleep(run.rng.uniform(0.0, 2.0))
    run.cluster.restart(primary)
    well_again(run)
    return f"{evidence}, and started again"


@cluster_fault("scan in a cluster: failovers amid passes, there and back", write_mode="versioned")
def to_and_fro(run: Run) -> str:
    primary, done = some_primary(run), []
    for _ in range(3):
        run.sleep(run.rng.uniform(0.0, PERIOD_S))
        primary, evidence = fail_over(run, primary, "CLUSTER FAILOVER")
        done.append(evidence)
        run.cluster.wait_until_ok()
    well_again(run)
    return "; ".join(done)


def there_and_back(run: Run, how: Migration) -> str:
    """Move slots in both directions while passes are under way, and see that nothing was taken for deleted."""
    source, target = some_primary(run), run.cluster.nodes[0]
    slots, evidence = moved(run, source, target, how)
    run.sleep(run.rng.uniform(0.0, 2 * PERIOD_S))
    run.cluster.move_slots(slots, target, source, how)
    well_again(run)
    further_passes(run)
    nothing_deleted(run)
    return f"{evidence}, and back"


@cluster_fault("scan in a cluster: slots moved amid passes by MIGRATE", deletes=0.0)
def by_migrate(run: Run) -> str:
    return there_and_back(run, "migrate")


@cluster_fault("scan in a cluster: slots moved amid passes by MIGRATESLOTS", deletes=0.0, only_on=MIGRATES_SLOTS)
def by_migrate_slots(run: Run) -> str:
    return there_and_back(run, "migrateslots")


@cluster_fault("scan in a cluster: slots moved amid passes, and keys deleted", write_mode="versioned")
def moved_and_deleted(run: Run) -> str:
    source, target = some_primary(run), run.cluster.nodes[0]
    _, evidence = moved(run, source, target, "migrate")
    well_again(run)
    gone = run.rng.sample(run.writer.keys, 50)
    run.writer.write_now([("DEL", key) for key in gone])
    return f"{evidence}, and {len(gone)} keys deleted"


UNREPLICATED: dict[str, Any] = {"replicas": 0, "server_config": SILENT | {"cluster-require-full-coverage": "no"}}


@cluster_fault("scan in a cluster: a node is away for longer than a pass", deletes=0.0, **UNREPLICATED)
def away(run: Run) -> str:
    primary = some_primary(run)
    run.cluster.stop(primary)
    run.sleep(3 * PERIOD_S)
    run.cluster.cont(primary)
    well_again(run)
    further_passes(run)
    nothing_deleted(run)
    return f"{primary.address} halted for {3 * PERIOD_S:g} s"


@cluster_fault(
    "scan in a cluster: a node comes back empty",
    deletes=0.0,
    absent="may_stay",
    **UNREPLICATED | {"settings": {"capture": SCANS["capture"] | {"deletions_found_share_max": 0.5}}, "rate": 50.0},
)
def empty(run: Run) -> str:
    """It has forgotten, and nobody has deleted: what the destination holds of it stays."""
    primary = some_primary(run)
    run.writer.pause()
    held = int(primary.call("DBSIZE"))
    run.wait(lambda: len(run.items()) == len(run.writer.keys), "all keys are delivered", 60.0)
    run.cluster.kill(primary)
    run.cluster.restart(primary)
    left = int(primary.call("DBSIZE"))
    run.writer.start()
    well_again(run)
    run.wait(lambda: "deletions_held" in run.engine.log(), "deletions are held", 60.0)
    nothing_deleted(run)
    return f"{primary.address} came back with {left} of {held} keys, and nothing was deleted" if held > left else ""


cluster_fault("scan in a cluster: children killed during a failover")(children_killed)


@cluster_fault("scan in a cluster: a failover while the engine is down")
def engine_down(run: Run) -> str:
    engine, before = run.engine, run.engine.pid
    engine.kill_all()
    evidence = failed_over(run, some_primary(run), "kill")
    for key in run.rng.sample(run.writer.keys, 20):
        run.writer.execute("DEL", key)
    return f"{evidence}; {restarted(engine, before)}"


@cluster_fault("scan in a cluster: two slices, one killed, and slots moved", **TWO_SLICES)
def two_slices(run: Run) -> str:
    one = run.rng.choice(run.engines)
    before = one.pid
    _, evidence = moved(run, some_primary(run), run.cluster.nodes[0], "migrate", amid=one.kill_all)
    return f"{evidence}; a slice was killed, {restarted(one, before)}"


@scan_fault("scan: two slices, one killed and started", **TWO_SLICES)
def two_slices_of_a_server(run: Run) -> str:
    one = run.rng.choice(run.engines)
    before = one.pid
    one.kill_all()
    run.sleep(run.rng.uniform(0.5, 2.0))
    return f"a slice was killed, {restarted(one, before)}"


@sentinel_fault("scan under Sentinels: the primary is killed amid a pass, and comes back")
def watched_killed(run: Run) -> str:
    before = run.watched.primary()
    run.sleep(run.rng.uniform(0.0, PERIOD_S))
    evidence = replaced(run, "kill")
    run.sleep(run.rng.uniform(0.5, 2.0))
    run.watched.restart(before)
    run.healed()
    return f"{evidence}, and started again"


@sentinel_fault("scan under Sentinels: the writer stays where it was", write_mode="versioned")
def outdated_writer(run: Run) -> str:
    """What a pass found at the old primary is lost: keys go back to what the new one has, or are gone."""
    return stays_behind(run)


@sentinel_fault("scan under Sentinels: the primary is halted, replaced, and goes on", write_mode="versioned")
def halted(run: Run) -> str:
    before = run.watched.primary()
    evidence = replaced(run, "stop")
    before.cont()
    run.wait(lambda: before in run.watched.replicas(), "the old primary follows", 60.0)
    return f"{evidence}, and goes on"


@sentinel_fault("scan under Sentinels: a failover while the engine is down")
def watched_engine_down(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    evidence = replaced(run, "SENTINEL FAILOVER")
    return f"{evidence}; {restarted(run.engine, before)}"
