"""Changes that are found by scans, and values that are not delivered again: what strikes passes, digests and names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.faults_cluster import failed_over, some_primary
from tests.chaos.faults_process import kill_child, restarted
from tests.chaos.faults_server import DURABLE, kill_and_start
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run

UNCHANGED: dict[str, Any] = {"skip_unchanged": True, "starting_position": "TRIM_HORIZON"}
SCANS: dict[str, Any] = {"capture": {"source": "scan", "scan_period_s_max": 1.0}}
SILENT: dict[str, Any] = {"notify-keyspace-events": ""}

scan_fault = functools.partial(fault, settings=SCANS, route=UNCHANGED, server_config=SILENT, wait_s=90.0)
unchanged_fault = functools.partial(fault, route=UNCHANGED, wait_s=60.0)


def passes(run: Run) -> int:
    """Return how many passes were ended."""
    return int(run.engine.totals()["repairs"])


def files(run: Run, kind: str) -> Sequence[Path]:
    """Return the engine's files of digests or names."""
    found = sorted((run.engine.backlog / kind).glob("*"))
    if not found:
        raise NotStruck(f"there are no {kind}")
    return [path for path in found if path.is_file()]


def tear(run: Run, path: Path) -> str:
    """Cut a file, or put something else into it."""
    size = path.stat().st_size
    how = run.rng.choice(["cut", "garbled", "emptied"])
    with path.open("r+b") as file:
        if how == "garbled":
            file.seek(run.rng.randrange(min(size, 100)))
            file.write(run.rng.randbytes(64))
        else:
            file.truncate(size // 2 if how == "cut" else 0)
    return f"{path.name} {how}"


def killed_and_torn(run: Run, kind: str) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    torn = [tear(run, path) for path in files(run, kind)]
    run.sleep(run.rng.uniform(0.2, 1.0))
    return f"{', '.join(torn)}; {restarted(run.engine, before)}"


@scan_fault("scan: kill -9 the subscriber")
def kill_subscriber(run: Run) -> str:
    before = passes(run)
    killed = [kill_child(run, "subscriber") for _ in range(2)]
    run.wait(lambda: passes(run) > before + 1, "passes go on")
    return "; ".join(killed)


@scan_fault("scan: kill -9 an invoker")
def kill_invoker(run: Run) -> str:
    return kill_child(run, "invoker")


@scan_fault("scan: kill -9 the engine")
def kill_engine(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.5, 2.0))
    return restarted(run.engine, before)


@scan_fault("scan: server killed and restarted", server_config=DURABLE | SILENT)
def restart_server(run: Run) -> str:
    return kill_and_start(run)


@scan_fault("scan: black hole for 5 s", proxies=("redis",))
def black_hole(run: Run) -> str:
    run.redis_proxy.black_hole(True)
    run.sleep(5.0)
    run.redis_proxy.black_hole(False)
    before = passes(run)
    run.wait(lambda: passes(run) > before + 1, "passes go on")
    return "a black hole for 5 s"


@scan_fault("scan: passes cut off in the middle", proxies=("redis",), keys=3_000)
def cut_off(run: Run) -> str:
    count = 0
    for _ in range(8):
        run.sleep(run.rng.uniform(0.1, 0.6))
        count += run.redis_proxy.reset_all()
    before = passes(run)
    run.wait(lambda: passes(run) > before, "a pass comes to its end")
    return f"{count} connections reset" if count else ""


@scan_fault("scan: torn digests")
def torn_digests(run: Run) -> str:
    return killed_and_torn(run, "digests")


@scan_fault("scan: failover in a cluster", stage="cluster", keys=300, wait_s=120.0)
def failover(run: Run) -> str:
    return failed_over(run, some_primary(run), "kill")


@unchanged_fault("unchanged: torn digests")
def unchanged_torn(run: Run) -> str:
    return killed_and_torn(run, "digests")


@unchanged_fault("unchanged: kill -9 invokers")
def unchanged_invokers(run: Run) -> str:
    killed = [kill_child(run, "invoker") for _ in range(3)]
    run.wait(lambda: run.engine.totals()["records_delivered"], "deliveries go on")
    return "; ".join(killed)


@unchanged_fault("unchanged: kill -9 the engine")
def unchanged_engine(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.2, 1.0))
    return restarted(run.engine, before)
