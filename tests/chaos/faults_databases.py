"""Two databases with keys of the same names: what strikes one, or both, and what changes places between them."""

from __future__ import annotations

from tests.chaos.faults_gaps import in_a_gap
from tests.chaos.registry import fault
from tests.chaos.rig import Run

BOTH = (0, 3)


@fault("databases: both change in a gap, then kill -9 everything", databases=BOTH, keys=100, wait_s=90.0)
def gap_and_kill(run: Run) -> str:
    """Keys of both change while nobody listens; the engine dies before, while, or after it has found them."""
    keys = run.rng.sample(run.writer.keys, 60)
    done = in_a_gap(run, [run.writer.change(key) for key in keys])
    run.sleep(run.rng.uniform(0.0, 0.5))
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.2, 1.0))
    run.engine.start()
    both = {key[:1] for key in keys}
    return f"{len(done)} keys of both changed in a gap" if len(both) == 2 and len(done) == len(keys) else ""


@fault("databases: swapped with each other", databases=BOTH, keys=100, wait_s=90.0)
def swapped(run: Run) -> str:
    """Each has the values of the other at once, and no event says so."""
    run.writer.pause()
    # Each may hold what was sent to the other.
    run.writer.ledger.computed(*run.writer.keys)
    before = [int(run.client().info("keyspace")[f"db{number}"]["keys"]) for number in BOTH]
    run.writer.execute("SWAPDB", *BOTH)
    run.writer.start()
    return f"databases of {before[0]} and {before[1]} keys swapped"


@fault("databases: one is flushed, keys move into it", databases=BOTH, keys=100, wait_s=90.0)
def flushed_and_filled(run: Run) -> str:
    """The other one keeps what it has but for keys that are moved, which have to go there and to come here."""
    run.writer.pause()
    run.writer.write_now([run.writer.change(b"3:cart:0000")])
    run.writer.execute("FLUSHDB")
    names = [key.partition(b":")[2] for key in run.rng.sample([k for k in run.writer.keys if k[:1] == b"0"], 20)]
    run.writer.ledger.computed(*(b"3:" + name for name in names))
    moved = run.writer.write_now([("MOVE", b"0:" + name, 3) for name in names])
    run.writer.start()
    return f"one of two databases flushed, {sum(moved)} keys moved" if sum(moved) else ""
