"""What happens to an engine that reads streams, to its group, and to entries."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from tests.chaos.faults_process import kill_child
from tests.chaos.faults_server import DURABLE, kill_and_start, replica_in_sync
from tests.chaos.registry import fault
from tests.chaos.rig import Run
from tests.cluster import Node

GROUP, STREAM = "engine", "changes"
CAPTURE = {"source": "stream", "streams": [STREAM], "key_field": "key", "claim_idle_ms": 2_000}


def streams_fault(name: str, **options: Any) -> Callable[[Callable[[Run], str]], Callable[[Run], str]]:
    """Register a fault of an engine that reads the stream which every change of the writer has an entry in."""
    options["settings"] = {"capture": CAPTURE | options.pop("capture", {})}
    return fault(f"streams: {name}", streams=True, **options)


def paused(run: Run) -> list[psutil.Process]:
    """Stop the subscribers, so that entries wait in the stream."""
    found = [psutil.Process(pid) for name, pid in run.engine.children().items() if name.startswith("subscriber")]
    for process in found:
        process.suspend()
    return found


def undone(run: Run, primary: Node, replicas: Sequence[Node], keys: Sequence[bytes]) -> str:
    """Have changes of these keys be delivered that the primary's replicas, which are halted then, do not have.

    The writer pauses, and all that it wrote is acknowledged first: what is pending would be read again. What a halted
    replica was sent it would take in later, so its connection is ended.
    """
    run.writer.pause()
    run.wait(lambda: all_acknowledged(primary.client), "all is acknowledged")
    offset = primary.client.info("replication")["master_repl_offset"]
    for replica in replicas:
        run.wait(
            lambda one=replica: one.client.info("replication")["slave_repl_offset"] >= offset, "the replicas are level"
        )
    for replica in replicas:
        replica.stop()
    primary.call("CLIENT", "KILL", "TYPE", "replica")
    write_undone(run, keys)
    return f"{len(keys)} delivered writes undone"


def write_undone(run: Run, keys: Sequence[bytes]) -> None:
    """Write what will be lost, and wait until it is delivered."""
    run.writer.write_now([("HSET", key, "undone", f"u{number}") for number, key in enumerate(keys)])

    def are_delivered() -> bool:
        items = run.items()
        return all(key in items and "undone" in items[key].body for key in keys)

    run.wait(are_delivered, "the writes to be undone are delivered")


def all_acknowledged(client: Any) -> bool:
    """Tell whether the groups of this server's streams were given all, and have acknowledged it."""
    for name in client.scan_iter(match=f"{STREAM}*", count=1_000):
        last = client.xinfo_stream(name)["last-generated-id"]
        if any(group["pending"] or group["last-delivered-id"] != last for group in client.xinfo_groups(name)):
            return False
    return True


@streams_fault("subscriber killed")
def subscriber_killed(run: Run) -> str:
    return "; ".join(kill_child(run, "subscriber") for _ in range(2))


@streams_fault("invoker killed")
def invoker_killed(run: Run) -> str:
    return "; ".join(kill_child(run, "invoker") for _ in range(2))


@streams_fault("engine killed and started")
def engine_killed(run: Run) -> str:
    pid = run.engine.pid
    run.engine.kill_all()
    run.sleep(run.rng.uniform(0.5, 2.0))
    run.engine.launch()
    run.engine.wait_ready()
    return f"engine {pid} killed, {run.engine.pid} started" if run.engine.pid != pid else ""


@streams_fault("server killed and restarted", server_config=DURABLE)
def server_restarted(run: Run) -> str:
    return kill_and_start(run)


@streams_fault("failover", proxies=("redis",))
def failover(run: Run) -> str:
    """All that was acknowledged is on the replica; what the group has acknowledged since may not be."""
    replica = replica_in_sync(run)
    run.writer.pause()
    run.writer.execute("WAIT", 1, 5_000)
    run.client(replica.port).replicaof("NO", "ONE")
    dropped = run.redis_proxy.retarget(replica.port)
    run.server.kill()
    run.use_primary(replica.port)
    run.writer.start()
    return f"{dropped} connections moved" if dropped else ""


@streams_fault("failover that loses acknowledged writes", proxies=("redis",), deletes=0.0)
def failover_with_loss(run: Run) -> str:
    """Entries and values that were read and delivered are on the old server alone; the address stays the same."""
    replica = replica_in_sync(run)
    run.client(replica.port).replicaof("NO", "ONE")
    run.writer.pause()
    keys = run.rng.sample(run.writer.keys, 60)
    write_undone(run, keys)
    dropped = run.redis_proxy.retarget(replica.port)
    run.server.kill()
    run.use_primary(replica.port)
    run.writer.start()
    return f"{len(keys)} delivered writes undone, {dropped} connections moved" if dropped else ""


@streams_fault("black hole for 8 s", proxies=("redis",))
def black_hole(run: Run) -> str:
    run.redis_proxy.black_hole(True)
    run.sleep(8.0)
    run.redis_proxy.black_hole(False)
    swallowed = run.redis_proxy.counts["swallowed_bytes"]
    return f"{swallowed} bytes swallowed" if swallowed else ""


@streams_fault("connections killed")
def connections_killed(run: Run) -> str:
    client, killed = run.client(), 0
    for _ in range(5):
        for one in client.client_list():
            if one["name"].startswith("engine"):
                killed += int(client.execute_command("CLIENT", "KILL", "ID", one["id"]))
        run.sleep(run.rng.uniform(0.05, 0.5))
    return f"{killed} connections killed" if killed else ""


@streams_fault("trimmed unread", deletes=0.0, not_on=("redis-6.2",))
def trimmed(run: Run) -> str:
    """Entries that nobody has read are removed: their keys are found by a scan. Redis 6 does not count entries."""
    client = run.client()
    processes = paused(run)
    run.sleep(1.0)
    waiting = client.xlen(STREAM)
    removed = client.xtrim(STREAM, maxlen=10, approximate=False)
    for process in processes:
        process.resume()
    missed = run.wait(lambda: run.engine.status()["totals"]["entries_missed"], "the engine tells of it")
    return f"{removed} of {waiting} entries removed, {missed} of them unread" if removed else ""


@streams_fault("group deleted")
def group_deleted(run: Run) -> str:
    client, times = run.client(), 0
    for _ in range(2):
        times += int(client.xgroup_destroy(STREAM, GROUP))
        run.wait(lambda: client.xinfo_groups(STREAM), "the group is made anew")
        run.sleep(run.rng.uniform(0.2, 1.0))
    return f"group deleted {times} times" if times else ""


@streams_fault("stream deleted", deletes=0.0)
def stream_deleted(run: Run) -> str:
    client = run.client()
    before = client.xlen(STREAM)
    client.delete(STREAM)
    run.wait(lambda: client.exists(STREAM) and client.xinfo_groups(STREAM), "the stream and the group are made anew")
    return f"{before} entries deleted" if before else ""


@streams_fault("consumer of the same name twice", engines=2, write_mode="versioned")
def same_name_twice(run: Run) -> str:
    """Two engines read as one consumer; then one of them is killed with what it was given."""
    client = run.client()

    def delivered() -> list[int]:
        return [int(engine.status()["totals"]["records_delivered"]) for engine in run.engines]

    run.wait(lambda: all(delivered()), "both engines deliver")
    consumers = client.xinfo_consumers(STREAM, GROUP)
    pid = run.engines[1].pid
    os.kill(pid, signal.SIGKILL)
    run.engines[1].kill_all()
    run.sleep(1.0)
    run.engines[1].launch()
    run.engines[1].wait_ready()
    return f"{len(run.engines)} engines delivered as one consumer" if len(consumers) == 1 else ""


@streams_fault("trimmed as it is settled", capture={"after_ack": "trim"})
def trimmed_as_settled(run: Run) -> str:
    """The engine removes what is settled, while its processes are killed."""
    told = kill_child(run, "subscriber")
    run.sleep(1.5)
    added, left = run.client().xinfo_stream(STREAM).get("entries-added", 0), run.client().xlen(STREAM)
    return f"{told}; {added} entries added, {left} left"
