"""Processes of the engine that are killed or stopped, engines that are started again, routes that are read again."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil

from tests.chaos.engine_process import EngineProcess
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run

STOPPED_S = 10.0
"""Twice as long as ``supervision.heartbeat_timeout_s`` of the rig."""
BROKEN_FILES = (
    "[[routes]\nname = all\n",  # no TOML
    '[[routes]]\nname = "all"\nfunction = "dynamodb"\nkeyz = ["*"]\n',  # an option that does not exist
    '[[routes]]\nname = "all"\nfunction = "no-such-function"\n',
    "",
)


def child(run: Run, role: str) -> tuple[str, int]:
    """Return one of the engine's children of this role, by chance: its name and process id."""
    found = sorted((name, pid) for name, pid in run.engine.children().items() if name.startswith(role))
    if not found:
        raise NotStruck(f"the engine has no {role}")
    return run.rng.choice(found)


def replaced(run: Run, name: str, pid: int) -> int:
    """Wait until another process has this child's place; return it."""

    def successor() -> int:
        now = run.engine.children().get(name, pid)
        return now if now != pid else 0

    return int(run.wait(successor, f"{name} is replaced"))


def kill_child(run: Run, role: str) -> str:
    """Kill a child; the supervisor replaces it."""
    name, pid = child(run, role)
    os.kill(pid, signal.SIGKILL)
    return f"{name} killed ({pid}), replaced by {replaced(run, name, pid)}"


def freeze(run: Run, pids: dict[str, int], seconds: float) -> str:
    """Stop processes, see that they are stopped, and have those go on that are still there."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    for process in processes.values():
        process.suspend()
    run.wait(
        lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes.values()), "all are stopped"
    )
    run.sleep(seconds)
    alive = []
    for name, process in processes.items():
        if process.is_running() and process.status() == psutil.STATUS_STOPPED:
            process.resume()
            alive.append(name)
    fate = f"{len(alive)} went on" if alive else "killed by the supervisor meanwhile"
    return f"{', '.join(pids)} stopped for {seconds:g} s; {fate}"


def restarted(engine: EngineProcess, before: int) -> str:
    """Start an engine as a service manager would; return the evidence."""
    engine.start()
    return f"started anew: {before} → {engine.pid}"


def reload_until(run: Run, word: str) -> None:
    """Have the engine read its routes again, and wait until it logs this word once more."""
    before = run.engine.log().count(word)
    run.engine.reload()
    run.wait(lambda: run.engine.log().count(word) > before, word)


@fault("kill -9 a subscriber")
def kill_subscriber(run: Run) -> str:
    return kill_child(run, "subscriber")


@fault("kill -9 an invoker")
def kill_invoker(run: Run) -> str:
    return kill_child(run, "invoker")


@fault("kill -9 children, one after another")
def kill_many(run: Run) -> str:
    killed = []
    for _ in range(6):
        found = sorted(run.engine.children().items())
        if found:
            name, pid = run.rng.choice(found)
            os.kill(pid, signal.SIGKILL)
            killed.append(name)
        run.sleep(run.rng.uniform(0.1, 0.8))
    run.wait(lambda: len([name for name in run.engine.children() if "/" in name]) == 4, "all four are there again")
    return f"killed: {', '.join(killed)}"


@fault("kill -9 the supervisor")
def kill_supervisor(run: Run) -> str:
    before = run.engine.pid
    run.engine.kill()
    run.sleep(run.rng.uniform(0.2, 1.0))
    return f"supervisor killed, {restarted(run.engine, before)}"


@fault("kill -9 everything")
def kill_everything(run: Run) -> str:
    before, count = run.engine.pid, 1 + len(run.engine.children())
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.2, 1.0))
    return f"{count} processes killed at once, {restarted(run.engine, before)}"


@fault("SIGSTOP a subscriber for 10 s")
def stop_subscriber(run: Run) -> str:
    return freeze(run, dict([child(run, "subscriber")]), STOPPED_S)


@fault("SIGSTOP an invoker for 10 s")
def stop_invoker(run: Run) -> str:
    return freeze(run, dict([child(run, "invoker")]), STOPPED_S)


@fault("SIGSTOP the supervisor for 10 s")
def stop_supervisor(run: Run) -> str:
    return freeze(run, {"supervisor": run.engine.pid}, STOPPED_S)


@fault("SIGSTOP an invoker for 3 s, which is not noticed")
def stop_invoker_briefly(run: Run) -> str:
    return freeze(run, dict([child(run, "invoker")]), 3.0)


@fault("SIGSTOP the whole engine for 7 s")
def stop_everything(run: Run) -> str:
    return freeze(run, {"supervisor": run.engine.pid, **run.engine.children()}, 7.0)


@fault("upgrade: drained, then started, with deletes in between")
def upgrade(run: Run) -> str:
    before = run.engine.pid
    status = run.engine.stop()
    if status != 0:
        raise NotStruck(f"the drain ended with {status}")
    gone = run.rng.sample(run.writer.keys, 5)
    for key in gone:
        run.writer.execute("DEL", key)
    run.sleep(0.5)
    return f"drained, {len(gone)} keys deleted while it was down, {restarted(run.engine, before)}"


@fault("a drain cut short by a second SIGTERM")
def stop_twice(run: Run) -> str:
    engine, before = run.engine, run.engine.pid
    run.stop_functions()  # so that the drain can't end
    run.sleep(0.3)
    os.kill(before, signal.SIGTERM)
    run.wait(lambda: "draining" in engine.log(), "the drain begins")
    run.sleep(0.5)
    os.kill(before, signal.SIGTERM)
    run.wait(lambda: not engine.is_running(), "the second SIGTERM ends it", 5.0)
    run.start_functions()
    return f"ended amid its drain, {restarted(engine, before)}"


@fault("kill -9 one of two engines", engines=2, write_mode="versioned", rate=60.0, keys=60, warm_s=2.0)
def kill_one_of_two(run: Run) -> str:
    one = run.rng.choice(run.engines)

    def delivered() -> list[int]:
        return [engine.totals()["records_delivered"] for engine in run.engines]

    run.wait(lambda: min(delivered()) >= 20, "both deliver")
    before = delivered()
    one.kill_all()
    run.sleep(1.0)
    return f"engine {run.engines.index(one) + 1} of 2 killed; records delivered until then: {before}"


@fault("rolling upgrade of two engines", engines=2, write_mode="versioned", rate=60.0, keys=60)
def upgrade_two(run: Run) -> str:
    statuses = []
    for engine in run.engines:
        statuses.append(engine.stop())
        run.writer.execute("DEL", run.writer.pick())
        engine.start()
    if any(statuses):
        raise NotStruck(f"the drains ended with {statuses}")
    return "each drained and started anew, one after the other"


def bring_into_force(run: Run, tables: list[list[dict[str, Any]]]) -> None:
    """Have the engine take these route tables, one after another."""
    for routes in tables:
        run.engine.routes = routes
        run.engine.write_config()
        reload_until(run, "routes_in_force")


@fault("routes read again under load")
def reload_routes(run: Run) -> str:
    first = dict(run.engine.routes[0])
    more = {"name": "more", "function": "accept", "events": ["*"]}
    bring_into_force(run, [[first | {"batch_size": 7}], [more, first | {"parallelization_factor": 4}], [first]])
    return "3 tables came into force: another batch size, a second route, as before"


@fault("routes renamed and split under load")
def rename_routes(run: Run) -> str:
    first = dict(run.engine.routes[0])
    split = [first | {"name": "carts", "keys": ["cart:*"]}, first | {"name": "others", "keys": ["[^c]*"]}]
    bring_into_force(run, [split, [first | {"name": "again"}]])
    return "2 tables came into force: one route became two, and two became one of another name"


@fault("routes read again from a broken file")
def reload_broken(run: Run) -> str:
    engine = run.engine
    for text in run.rng.sample(BROKEN_FILES, 3):
        engine.write_config(text or "# nothing")
        reload_until(run, "reload_refused")
    kill_child(run, "invoker")  # what starts now must have the routes in force, not those of the file
    run.sleep(0.5)
    engine.write_config()
    engine.reload()
    run.sleep(0.3)
    return "3 broken files were refused, an invoker was replaced meanwhile"
