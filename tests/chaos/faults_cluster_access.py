"""Clusters that are not open to all: users, passwords that rotate, TLS; and nodes whose clocks jump."""

from __future__ import annotations

from typing import Any

from tests.chaos.faults_cluster import cluster_fault, fail_over, some_primary, well_again
from tests.chaos.registry import ENGINE_SECRET
from tests.chaos.rig import Run

USERS = (f"engine on >{ENGINE_SECRET} ~* &* +@all",)
OF_DEBIAN: dict[str, Any] = {"tls": True, "users": USERS, "only_on": ("redis-7.0",)}


def rotate(run: Run) -> str:
    """Give the engine's user another password, by its file, and end its connections."""
    ended = 0
    for node in run.cluster.alive():
        node.call("ACL", "SETUSER", "engine", "resetpass", f">{ENGINE_SECRET}-2")
        ended += int(node.call("CLIENT", "KILL", "USER", "engine"))
    run.sleep(run.rng.uniform(0.1, 1.0))
    (run.folder / "secret").write_text(f"{ENGINE_SECRET}-2\n")
    return f"password changed, {ended} connections ended" if ended else ""


@cluster_fault("access: the password rotates while a primary is replaced", users=USERS)
def rotated(run: Run) -> str:
    primary = some_primary(run)
    run.cluster.kill(primary)
    evidence = rotate(run)
    run.cluster.wait_until_replaced(primary)
    return evidence and f"{primary.address} killed; {evidence}"


@cluster_fault("access: TLS and users, and a primary is killed and comes back", **OF_DEBIAN)
def killed_behind_tls(run: Run) -> str:
    primary = some_primary(run)
    _, evidence = fail_over(run, primary, "kill")
    run.cluster.restart(primary)
    well_again(run)
    return f"{evidence}, and started again"


@cluster_fault("access: TLS and users, and slots move while the password rotates", **OF_DEBIAN)
def moved_behind_tls(run: Run) -> str:
    source = some_primary(run)
    target = some_primary(run, source)
    (first, last), *_ = run.cluster.slots_of(source)
    slots = range(first, min(last, first + 100) + 1)
    run.cluster.move_slots(slots[:50], source, target)
    evidence = rotate(run)
    run.cluster.move_slots(slots[50:], source, target)
    well_again(run)
    return evidence and f"{len(slots)} slots moved; {evidence}"


def jump(run: Run, seconds: int) -> str:
    """Have a node's clock jump, and go back later."""
    primary = some_primary(run)
    run.cluster.shift_clock(primary, seconds)
    run.sleep(2.5)
    run.cluster.shift_clock(primary, 0)
    run.sleep(1.5)
    return f"the clock of {primary.address} was off by {seconds} s for 2.5 s"


@cluster_fault("clocks: one node's jumps an hour ahead, and back", partitions=True, write_mode="versioned")
def ahead(run: Run) -> str:
    return jump(run, 3_600)


@cluster_fault("clocks: one node's jumps an hour back, and on again", partitions=True, write_mode="versioned")
def back(run: Run) -> str:
    return jump(run, -3_600)


@cluster_fault("clocks: two nodes seconds apart, and slots move between them", partitions=True, write_mode="versioned")
def apart(run: Run) -> str:
    """Less than what a configuration's epoch is worth: versions stay in order."""
    source = some_primary(run)
    target = some_primary(run, source)
    run.cluster.shift_clock(source, 4)
    run.cluster.shift_clock(target, -4)
    run.sleep(1.0)
    (first, last), *_ = run.cluster.slots_of(source)
    slots = range(first, min(last, first + 100) + 1)
    run.cluster.move_slots(slots, source, target)
    run.cluster.move_slots(slots, target, source)
    well_again(run)
    return f"{len(slots)} slots moved there and back between clocks 8 s apart"
