"""Gaps in which more happens than a hash that is set: values of every kind, idle times that lie, datasets replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.chaos.faults_server import replica_in_sync
from tests.chaos.ledger import Command
from tests.chaos.registry import fault
from tests.chaos.rig import NotStruck, Run
from tests.commands.case import BLOCKED, DUMP, EVERYWHERE, IN_DATABASE_1, OTHER_PORT, Case
from tests.commands.table import CASES
from tests.commands.values import VALUE_CASES
from tests.servers import chosen

COUNTERS = 60
IDLE_S = 5.0
"""Longer than the margin by which a narrowed repair believes idle times."""
CASES_A_ROUND = 80
DEAF: tuple[Command, ...] = (("CLIENT", "KILL", "TYPE", "pubsub"),)
_NOT_INSIDE = {b"FLUSHALL", b"FLUSHDB", b"SWAPDB", b"MIGRATE", b"MOVE", b"DEBUG", b"MULTI", b"EXEC", b"WATCH"}
"""What would end the transaction, or what it is about."""
_NOT_HERE = (BLOCKED, IN_DATABASE_1, OTHER_PORT)


def in_a_gap(run: Run, commands: Sequence[Command]) -> list[Any]:
    """Run commands of which nobody hears: in one transaction behind the end of all subscriptions."""
    replies = run.writer.write_now([("MULTI",), *DEAF, *commands, ("EXEC",)])
    done = replies[-1]
    if not isinstance(done, list) or not int(done[0]):
        raise NotStruck(f"no subscription was ended: {done!r}")
    return done[1:]


def counters(run: Run) -> list[bytes]:
    """Make counters whose values servers may share between keys; leave them alone until they are old."""
    keys = [b"counter:%02d" % number for number in range(COUNTERS)]
    run.writer.ledger.computed(*keys)
    run.writer.write_now([("SET", key, 41 * number) for number, key in enumerate(keys)])
    held = run.wait(lambda: len([key for key in run.items() if key in keys]) == COUNTERS, "the counters are delivered")
    run.sleep(IDLE_S)
    return keys if held else []


@fault("gap: counters", wait_s=90.0)
def counters_in_a_gap(run: Run) -> str:
    """Small integers are objects that Redis before 8 shares between keys: their idle times are not the key's."""
    keys = counters(run)
    done = in_a_gap(run, [("INCR", key) for key in keys[::2]])
    return f"{len(done)} counters changed in a gap" if len(done) == COUNTERS // 2 else ""


@fault("gap: every kind of command and value", wait_s=90.0)
def table_in_a_gap(run: Run) -> str:
    """Cases of the table of write commands, drawn by the seed; each is set up long before, and done in the gap."""
    server = next(iter(chosen()))
    # One that the server does not take would undo the whole transaction.
    here = [case for case in (*CASES, *VALUE_CASES) if _is_plain(case) and server in (*case.servers, *_others(server))]
    drawn = run.rng.sample(here, CASES_A_ROUND)
    placed = [case.placed(b"case%d:" % number) for number, case in enumerate(drawn)]
    for case in placed:
        run.writer.ledger.computed(*_keys(case))
    run.writer.write_now([command for case in placed for command in case.setup])
    run.sleep(IDLE_S)
    known = [case for case in placed if all(_is_known(run, step[0]) for step in case.steps)]
    done = in_a_gap(run, [step for case in known for step in case.steps])
    well = sum(not isinstance(reply, Exception) for reply in done)
    return f"{well} of {len(done)} commands of {len(known)} cases in a gap" if well > CASES_A_ROUND // 2 else ""


def _is_plain(case: Case) -> bool:
    words = [word for command in (*case.setup, *case.steps) for word in command]
    return not any(word in _NOT_HERE or word.startswith(DUMP) for word in words) and all(
        command[0] not in _NOT_INSIDE for command in case.steps
    )


def _others(server: str) -> tuple[str, ...]:
    """Return a server that the table does not know: it is tried with all that it has the commands for."""
    return () if server in EVERYWHERE else (server,)


def _keys(case: Case) -> set[bytes]:
    prefix = next(iter(case.keys()), b"").partition(b":")[0] + b":"
    return {word for command in (*case.setup, *case.steps) for word in command[1:] if word.startswith(prefix)}


def _is_known(run: Run, command: bytes) -> bool:
    # Not by the client, which makes something else of the reply.
    connection = run.client().connection_pool.get_connection()
    connection.send_command("COMMAND", "INFO", command)
    return connection.read_response()[0] is not None


@fault("gap: a policy that keeps no idle times, and back", wait_s=90.0)
def policy_in_a_gap(run: Run) -> str:
    """Under LFU the clock of idle times is another thing; back under LRU it says what it likes."""
    keys = counters(run)
    run.writer.write_now([run.writer.change(key) for key in run.writer.keys])
    policy: Command = ("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    done = in_a_gap(
        run, [policy, *(("INCRBY", key, 100_000) for key in keys), ("CONFIG", "SET", policy[2], "noeviction")]
    )
    return f"{len(done) - 2} keys changed under another policy" if len(done) == COUNTERS + 2 else ""


@fault("gap: a transaction that was queued long before", wait_s=90.0)
def queued(run: Run) -> str:
    """Redis 7.0 dates a change from when its command was parsed, which in a MULTI is when it was queued."""
    keys = counters(run)
    run.writer.pause()
    commands: list[Command] = [("SET", key, f"queued-{number}") for number, key in enumerate(keys)]
    queue = run.client().connection_pool.get_connection()
    queue.send_packed_command(queue.pack_commands([("MULTI",), *commands]))
    for _ in range(1 + len(commands)):
        queue.read_response()
    run.sleep(IDLE_S)
    killed = int(run.client().execute_command(*DEAF[0]))
    queue.send_command("EXEC")
    done = queue.read_response()
    run.writer.start()
    return f"{len(done)} commands queued for {IDLE_S:g} s, and run in a gap" if killed and len(done) == COUNTERS else ""


@fault("gap: SWAPDB within a reconnect", wait_s=90.0)
def swapped_in_a_gap(run: Run) -> str:
    """The other keyspace lacks some keys and has other values of some: nothing of it was touched for seconds."""
    run.writer.pause()
    run.writer.execute("SELECT", 1)
    keys = run.writer.keys[: len(run.writer.keys) * 9 // 10]
    run.writer.write_now([run.writer.change(key) for key in keys])
    run.writer.execute("SELECT", 0)
    run.sleep(IDLE_S)
    in_a_gap(run, [("SWAPDB", 0, 1)])
    after = int(run.client().dbsize())
    run.writer.start()
    return f"{after} keys after the swap" if after == len(keys) else ""


@fault("server: a flush that a reset of statistics hides")
def hidden_flush(run: Run) -> str:
    """The count of flushes is what it was before; most keys are written again at once, some are gone."""
    run.writer.pause()
    gone = run.rng.sample(run.writer.keys, 20)
    again = [key for key in run.writer.keys if key not in gone]
    run.writer.write_now(
        [("MULTI",), ("FLUSHALL",), ("CONFIG", "RESETSTAT"), *(run.writer.change(key) for key in again), ("EXEC",)]
    )
    left = int(run.client().dbsize())
    run.writer.start()
    return f"{len(gone)} keys flushed away, {left} there again" if left == len(again) else ""


@fault("server: made a replica of another, and a primary again", wait_s=90.0)
def replaced_by_another(run: Run) -> str:
    """The whole dataset is replaced without an event: values are others, some keys are gone, the run id stays."""
    other = replica_in_sync(run)
    client = run.client(other.port)
    client.replicaof("NO", "ONE")
    run.writer.pause()
    run.use_primary(other.port)
    gone = run.rng.sample(run.writer.keys, 15)
    changed = [key for key in run.writer.keys if key not in gone][::2]
    run.writer.write_now([run.writer.change(key) for key in changed])
    run.writer.write_now([("DEL", key) for key in gone])
    run.use_primary(run.server.port)
    ours = run.client(run.server.port)
    ours.replicaof("127.0.0.1", other.port)
    run.wait(lambda: ours.info("replication").get("master_link_status") == "up", "the server follows the other")
    ours.replicaof("NO", "ONE")
    held = [key for key in gone if ours.exists(key)]
    run.writer.start()
    return f"{len(changed)} values replaced, {len(gone)} keys gone, without an event" if not held else ""
