"""Datasets that are replaced without an event, and what hides it."""

from __future__ import annotations

from tests.chaos.faults_server import replica_in_sync
from tests.chaos.registry import fault
from tests.chaos.rig import Run

SMALL_BACKLOG_BYTES = 16 * 1024
EVERY_WAY_TO_GO = {"events": ["changes", "evicted"]}
"""What a replica finds gone its primary may have evicted: that counts only where the route says so."""


@fault("server: follows another, whose values are others", route=EVERY_WAY_TO_GO)
def follows_another(run: Run) -> str:
    """The other was its replica, went ways of its own, and is now its primary: it sends its dataset, and no event."""
    other = replica_in_sync(run)
    run.client(other.port).replicaof("NO", "ONE")
    run.sleep(0.5)  # the engine's server changes too: the histories part
    run.writer.pause()
    captured = run.client()
    run.use_primary(other.port)
    keys = run.rng.sample(run.writer.keys, 50)
    run.writer.write_now([run.writer.change(key) for key in keys])
    syncs = run.client().info("stats")["sync_full"]
    captured.replicaof("127.0.0.1", other.port)
    run.wait(lambda: captured.info("replication")["master_link_status"] == "up", "the captured server follows")
    run.writer.start()
    sent = run.client().info("stats")["sync_full"] - syncs
    return f"{len(keys)} keys changed elsewhere, {sent} full synchronization" if sent else ""


@fault("server: a captured replica is synchronized anew", proxies=("redis",), route=EVERY_WAY_TO_GO)
def synchronized_anew(run: Run) -> str:
    """It was cut off for longer than its primary remembers; what was written meanwhile comes without an event."""
    run.client().config_set("repl-backlog-size", SMALL_BACKLOG_BYTES)
    replica = replica_in_sync(run)
    moved = run.redis_proxy.retarget(replica.port)
    run.sleep(2.0)
    cut = run.client(replica.port)
    cut.replicaof("127.0.0.1", 1)
    syncs = run.client().info("stats")["sync_full"]
    keys = run.rng.sample(run.writer.keys, 50)
    run.writer.write_now([("HSET", key, "missed", "x" * (2 * SMALL_BACKLOG_BYTES // 50)) for key in keys])
    cut.replicaof("127.0.0.1", run.server.port)
    run.wait(lambda: cut.info("replication")["master_link_status"] == "up", "the replica follows again")
    sent = run.client().info("stats")["sync_full"] - syncs
    return f"{moved} connections moved to a replica, {sent} full synchronization" if moved and sent else ""


@fault("server: statistics reset, which hides a FLUSHALL")
def reset_hides_flush(run: Run) -> str:
    """The count of flushes is the same before and after; some keys are written again by the writer, at once."""
    run.writer.execute("FLUSHALL")
    run.sleep(2.5)  # the engine has seen this one
    client = run.client()
    before = client.dbsize()
    run.writer.pause()
    client.config_resetstat()
    run.writer.execute("FLUSHALL")
    after = client.dbsize()
    run.writer.write_now([run.writer.change(key) for key in run.rng.sample(run.writer.keys, 20)])
    calls = client.info("commandstats")["cmdstat_flushall"]["calls"]
    return f"{before} keys before, {after} after, {calls} flush counted" if before > after == 0 and calls == 1 else ""
