"""Faults of the host that the engine runs on: its disk and its clock."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

from tests.chaos.faults_process import child, kill_child, replaced, restarted
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run

HOUR_S = 3_600

SMALL_RINGS: dict[str, dict[str, Any]] = {
    "capture": {"shards": 1, "key_bytes_max": 4_096},
    "ring": {"ring_bytes": 65_536, "frame_bytes_max": 8_192},
    "delivery": {"invokers": 1},
}
"""So that an outage of seconds fills half a ring, and keys go to the backlog."""
MANY_KEYS: dict[str, Any] = {"settings": SMALL_RINGS, "keys": 2_000, "key_bytes": 900, "rate": 500.0}


# The checkpoint


def mangle(run: Run, path: Path, how: str) -> str:
    """Damage a file at a random place; return what was done."""
    before = path.read_bytes()
    at = run.rng.randrange(max(1, len(before)))
    if how == "cut":
        path.write_bytes(before[:at])
        return f"{len(before)} bytes cut short to {at}"
    if how == "emptied":
        path.write_bytes(b"")
        return f"{len(before)} bytes emptied"
    noise = run.rng.randbytes(min(16, len(before) - at))
    if noise == before[at : at + len(noise)]:
        noise = bytes(byte ^ 0xFF for byte in noise)
    path.write_bytes(before[:at] + noise + before[at + len(noise) :])
    return f"{len(noise)} of {len(before)} bytes overwritten at {at}"


def torn_checkpoint(run: Run, how: str) -> str:
    """Kill everything, damage the checkpoint, start."""
    engine, before = run.engine, run.engine.pid
    run.wait(engine.checkpoint.exists, "there is a checkpoint", 5.0)
    engine.kill_all()
    run.sleep(0.4)
    files = [engine.checkpoint]
    if how == "emptied":  # with whatever stands by for it
        files += [path for path in sorted(engine.folder.glob("checkpoint.*")) if path.stat().st_size]
    done = ", ".join(f"{path.name}: {mangle(run, path, how)}" for path in files)
    return f"{done}; {restarted(engine, before)}"


@fault("a torn checkpoint: cut short")
def checkpoint_cut(run: Run) -> str:
    return torn_checkpoint(run, "cut")


@fault("a torn checkpoint: overwritten in the middle")
def checkpoint_garbled(run: Run) -> str:
    return torn_checkpoint(run, "garbled")


@fault("a torn checkpoint: empty, and all its copies")
def checkpoint_empty(run: Run) -> str:
    return torn_checkpoint(run, "emptied")


@fault("the checkpoint can't be written, then kill -9 everything")
def checkpoint_unwritable(run: Run) -> str:
    """What is on the disk grows old; a start from it must still find all that came after."""
    engine, before = run.engine, run.engine.pid
    run.wait(engine.checkpoint.exists, "there is a checkpoint", 5.0)
    obstacles = [engine.folder / f"checkpoint{end}" for end in (".new", ".tmp", ".draft")]
    for obstacle in obstacles:  # a folder in the place of its draft
        obstacle.unlink(missing_ok=True)
        (obstacle / "full").mkdir(parents=True)
    old = engine.checkpoint.read_bytes()
    run.sleep(1.2)
    if engine.checkpoint.read_bytes() != old:
        raise NotStruck("the checkpoint went on changing")
    engine.kill_all()
    for obstacle in obstacles:
        (obstacle / "full").rmdir()
        obstacle.rmdir()
    return f"not written for 1.2 s; {restarted(engine, before)}"


# The backlog


def outage(run: Run, counter: str, seconds: float = 2.5) -> int:
    """Take the function away until this counter of the engine has grown; return how far."""
    before = run.engine.totals()[counter]
    run.stop_functions()
    try:
        run.sleep(seconds)
        grown = run.wait(lambda: run.engine.totals()[counter] - before, f"{counter} grows", 6.0)
    finally:
        run.start_functions()
    return int(grown)


@fault("an outage longer than the rings: keys wait on disk", **MANY_KEYS)
def backlog_used(run: Run) -> str:
    return f"{outage(run, 'keys_backlog')} keys waited on disk"


@fault("kill -9 everything while keys wait on disk", **MANY_KEYS)
def backlog_survives(run: Run) -> str:
    engine, before = run.engine, run.engine.pid
    run.stop_functions()
    try:
        waiting = run.wait(lambda: engine.totals()["keys_backlog"], "keys wait on disk")
        run.sleep(1.0)
        engine.kill_all()
    finally:
        run.start_functions()
    return f"{waiting} or more keys on disk, all killed; {restarted(engine, before)}"


@fault("a damaged backlog, found while the subscriber hangs and then dies", **MANY_KEYS)
def backlog_damaged(run: Run) -> str:
    """Its keys are found by a scan, which is wanted of a subscriber that never takes the message."""
    engine = run.engine
    run.stop_functions()
    try:
        waiting = run.wait(lambda: engine.totals()["keys_backlog"], "keys wait on disk")
        run.sleep(1.0)
        run.writer.pause()
        (_, subscriber), (name, invoker) = child(run, "subscriber"), child(run, "invoker")
        os.kill(subscriber, signal.SIGSTOP)
        os.kill(invoker, signal.SIGSTOP)
        for path in engine.backlog.glob("*.sqlite*"):
            path.write_bytes(b"no database" + path.read_bytes()[11:])
        os.kill(invoker, signal.SIGKILL)
        replaced(run, name, invoker)
        run.wait(lambda: "backlog_lost" in engine.log(), "the damage is found")
        os.kill(subscriber, signal.SIGKILL)
    finally:
        run.start_functions()
    return f"{waiting} or more keys on disk, damaged"


@fault(
    "the backlog reaches its limit",
    **{**MANY_KEYS, "settings": {**SMALL_RINGS, "delivery": {"invokers": 1, "backlog_bytes_max": 1_048_576}}},
)
def backlog_full(run: Run) -> str:
    return f"{outage(run, 'backlog_refused', 3.5)} refusals by backlog_bytes_max"


@fault("a full disk for the backlog", **MANY_KEYS, limits={resource.RLIMIT_FSIZE: 262_144})
def disk_full(run: Run) -> str:
    """No file of the engine may grow beyond 256 KiB: the system refuses the write, as on a full disk."""
    return f"{outage(run, 'backlog_refused', 3.0)} refusals by the system, files end at 256 KiB"


@fault("the backlog's folder can't be made", **MANY_KEYS)
def backlog_folder_blocked(run: Run) -> str:
    folder = run.engine.backlog
    if folder.exists():
        folder.rename(folder.with_name("backlog-before"))
    folder.write_text("a file, where the folder should be")
    return f"{outage(run, 'backlog_refused', 2.5)} refusals, a file was in the folder's place"


# The clock


def jump(run: Run, hours: int) -> str:
    """Set the clock, see that the engine has noticed, and have a subscriber die, so that a gap is reckoned with it."""
    engine = run.engine
    before_ms = engine.status()["updated_at_ms"]
    engine.shift_clock(hours * HOUR_S)
    run.wait(lambda: abs(engine.status()["updated_at_ms"] - before_ms) > HOUR_S * 900, "the engine's clock is off")
    killed = kill_child(run, "subscriber")
    run.sleep(0.5)
    return f"clock off by {hours:+d} h; {killed}"


def jump_over_restart(run: Run, hours: int) -> str:
    """Kill everything, and start with another clock than the checkpoint was written by."""
    engine, before = run.engine, run.engine.pid
    run.sleep(0.5)
    engine.kill_all()
    engine.shift_clock(hours * HOUR_S)
    run.sleep(0.3)
    return f"clock off by {hours:+d} h; {restarted(engine, before)}"


@fault("the host's clock jumps an hour forward", shifted_clock=True)
def clock_forward(run: Run) -> str:
    return jump(run, 1)


@fault("the host's clock jumps an hour back", shifted_clock=True)
def clock_back(run: Run) -> str:
    return jump(run, -1)


@fault("the host's clock an hour forward after a crash", shifted_clock=True)
def clock_forward_restart(run: Run) -> str:
    return jump_over_restart(run, 1)


@fault("the host's clock an hour back after a crash", shifted_clock=True)
def clock_back_restart(run: Run) -> str:
    return jump_over_restart(run, -1)


@fault("the host's clock jumps forward, a crash, and back", shifted_clock=True)
def clock_forward_and_back(run: Run) -> str:
    first = jump_over_restart(run, 1)
    run.sleep(0.5)
    run.engine.shift_clock(0)
    os.kill(run.engine.children()["subscriber 1/2"], signal.SIGKILL)
    return f"{first}; then right again, and a subscriber killed"
