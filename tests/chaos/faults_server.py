"""What happens to the server, and on the way to it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from engine.sandbox.valkey import ValkeyServer
from tests.chaos.registry import fault
from tests.chaos.rig import Run

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""What was acknowledged survives a kill."""

LONG_KEY_BYTES = 1_800
FLOOD_BYTES_MAX = 64 * 1024 * 1024


@fault("server: killed and restarted", server_config=DURABLE)
def restart(run: Run) -> str:
    return kill_and_start(run)


def kill_and_start(run: Run) -> str:
    """Kill the server and start it again; return what became of it, "" where it is the same process."""
    before = run.client().info("server")["run_id"]
    run.server.kill()
    run.sleep(run.rng.uniform(0.2, 2.0))
    run.server.start()
    after = run.client().info("server")["run_id"]
    return f"run {before[:8]} killed, {after[:8]} started" if after != before else ""


@fault("server: stopped for seconds", proxies=("redis",))
def frozen(run: Run) -> str:
    seconds = run.rng.uniform(4.0, 6.0)
    pid = run.server.pid
    run.cleanup(lambda: os.kill(pid, signal.SIGCONT))
    accepted = run.redis_proxy.counts["accepted"]
    os.kill(pid, signal.SIGSTOP)
    run.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
    run.wait(lambda: run.redis_proxy.counts["accepted"] > accepted, "the engine gives a connection up")
    return f"stopped for {seconds:.1f} s; {run.redis_proxy.counts['accepted'] - accepted} connections were made anew"


@fault("server: failover to a clock an hour behind", proxies=("redis",))
def failover(run: Run) -> str:
    return fail_over_to_the_past(run)


@fault("server: failover to a clock an hour behind, versioned writes", proxies=("redis",), write_mode="versioned")
def failover_versioned(run: Run) -> str:
    return fail_over_to_the_past(run)


def fail_over_to_the_past(run: Run) -> str:
    """All that was acknowledged is on the replica; its clock is behind, as those see it who come through the proxy."""
    replica = replica_in_sync(run)
    run.writer.pause()
    run.writer.execute("WAIT", 1, 5_000)
    run.client(replica.port).replicaof("NO", "ONE")
    run.redis_proxy.shift_time_s(-3_600)
    dropped = run.redis_proxy.retarget(replica.port)
    run.server.kill()
    run.use_primary(replica.port)
    run.writer.start()
    run.wait(lambda: run.redis_proxy.counts["times_shifted"] > 0, "the engine asks the new primary for its time")
    run.sleep(2.0)  # values are written and read by the new clock
    return f"{dropped} connections moved, {run.redis_proxy.counts['times_shifted']} replies of TIME an hour early"


@fault("server: failover that loses acknowledged writes", proxies=("redis",))
def failover_with_loss(run: Run) -> str:
    """The replica is cut off first; what the old primary takes from then on, and the engine delivers, is undone."""
    replica = replica_in_sync(run)
    run.client(replica.port).replicaof("NO", "ONE")
    run.writer.pause()
    keys = run.rng.sample(run.writer.keys, 20)
    run.writer.write_now([("HSET", key, "undone", f"u{number}") for number, key in enumerate(keys)])
    run.wait(lambda: all(holds(run, key, "undone") for key in keys), "the writes to be undone are delivered")
    dropped = run.redis_proxy.retarget(replica.port)
    run.server.kill()
    run.use_primary(replica.port)
    run.writer.start()
    return f"{len(keys)} delivered writes undone, {dropped} connections moved" if dropped else ""


def holds(run: Run, key: bytes, text: str) -> bool:
    """Tell whether the destination's value of this key has this text in it."""
    item = run.items().get(key)
    return item is not None and text in item.body


def replica_in_sync(run: Run) -> ValkeyServer:
    """Start a replica of the primary, and return it when it follows."""
    replica = run.more_server(replicaof=f"127.0.0.1 {run.server.port}", repl_diskless_sync_delay="0")
    client = run.client(replica.port)

    def follows() -> bool:
        state = client.info("replication")
        return bool(state["master_link_status"] == "up" and not int(state["master_sync_in_progress"]))

    run.wait(follows, "the replica follows")
    return replica


@fault("server: pub/sub clients killed")
def kill_pubsub(run: Run) -> str:
    client = run.client()
    killed = 0
    for _ in range(3):
        killed += int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
        run.sleep(run.rng.uniform(0.1, 0.6))
    return f"{killed} subscriptions killed" if killed else ""


@fault("server: all clients but the writer killed")
def kill_clients(run: Run) -> str:
    client = run.client()
    killed = 0
    for _ in range(5):
        for one in client.client_list():
            if one["name"].startswith("engine"):
                killed += int(client.execute_command("CLIENT", "KILL", "ID", one["id"]))
        run.sleep(run.rng.uniform(0.05, 0.5))
    return f"{killed} connections of the engine killed" if killed else ""


@fault("server: output buffer limit", proxies=("redis",))
def output_buffer(run: Run) -> str:
    """A subscriber that does not read, as one whose host swaps, is disconnected with all that was queued for it."""
    client = run.client()
    client.config_set("client-output-buffer-limit", "pubsub 1mb 512kb 1")
    stalled = run.redis_proxy.stall(True)
    keys = [b"long:%02d:%s" % (number, b"x" * LONG_KEY_BYTES) for number in range(20)]
    flooded = 0

    def is_disconnected() -> bool:
        nonlocal flooded
        if flooded < FLOOD_BYTES_MAX:
            flooded += sum(len(key) for key in keys) * 20
            run.writer.write_now([("HSET", key, "turn", f"{flooded}-{turn}") for turn in range(20) for key in keys])
        return disconnections(client) > 0

    run.wait(is_disconnected, "the server disconnects a subscriber")
    run.sleep(0.5)
    run.redis_proxy.stall(False)
    return f"{stalled} subscriptions stalled, {disconnections(client)} disconnected after {flooded >> 20} MB of events"


def disconnections(client: Any) -> int:
    """Return how many clients the server has disconnected over their output buffers; Redis before 7 does not count."""
    counted = client.info("stats").get("client_output_buffer_limit_disconnections")
    if counted is not None:
        return int(counted)
    subscribers = [one for one in client.client_list(_type="pubsub") if one["name"].startswith("engine")]
    return max(0, 2 - len(subscribers))


@fault("redis: connections reset", proxies=("redis",))
def connections_reset(run: Run) -> str:
    count = 0
    for _ in range(4):
        count += run.redis_proxy.reset_all()
        run.sleep(run.rng.uniform(0.05, 0.8))
    return f"{count} connections reset" if count else ""


@fault("redis: black hole for 8 s", proxies=("redis",))
def black_hole(run: Run) -> str:
    run.redis_proxy.black_hole(True)
    run.sleep(8.0)
    run.redis_proxy.black_hole(False)
    swallowed = run.redis_proxy.counts["swallowed_bytes"]
    return f"{swallowed} bytes swallowed" if swallowed else ""


@fault("redis: connections refused for seconds", proxies=("redis",))
def refused(run: Run) -> str:
    dropped = run.redis_proxy.refuse(True)
    run.sleep(run.rng.uniform(1.0, 4.0))
    run.redis_proxy.refuse(False)
    return f"{dropped} connections dropped, and new ones refused" if dropped else ""


@fault("server: notifications off for 1 s")
def notifications_off(run: Run) -> str:
    return without_notifications(run, 1.0)


@fault("server: notifications off for a moment", not_on=("redis-6.2",))
def notifications_off_briefly(run: Run) -> str:
    """So short that whoever looks at the flags once a second sees nothing. Redis 6 does not count ``CONFIG SET``."""
    return without_notifications(run, 0.05)


def without_notifications(run: Run, seconds: float) -> str:
    """Switch notifications off, write, and switch them on again, unless the engine has."""
    client = run.client()
    flags = client.config_get("notify-keyspace-events")["notify-keyspace-events"]
    client.config_set("notify-keyspace-events", "")
    until = time.monotonic() + seconds
    unheard = 0
    while time.monotonic() < until:
        keys = run.rng.sample(run.writer.keys, 10)
        unheard += len(run.writer.write_now([run.writer.change(key) for key in keys]))
        run.sleep(0.01)
    client.config_set("notify-keyspace-events", flags)
    return f"flags {flags!r} off for {seconds:g} s, {unheard} changes and the writer's meanwhile" if flags else ""


@fault("server: FLUSHALL")
def flush_all(run: Run) -> str:
    """Everything is gone without an event; some keys are written again by the writer, at once."""
    before = run.client().dbsize()
    run.writer.pause()
    run.writer.execute("FLUSHALL")
    after = run.client().dbsize()
    again = run.rng.sample(run.writer.keys, 20)
    run.writer.write_now([run.writer.change(key) for key in again])
    return f"{before} keys before, {after} after; {len(again)} written again" if before > after == 0 else ""


@fault(
    "server: comes back empty, and what is gone is accepted",
    settings={"capture": {"deletions_found_share_max": 0.25}},
)
def comes_back_empty(run: Run) -> str:
    """Nothing is deleted before somebody says so; what is written again is delivered meanwhile."""
    run.writer.pause()
    run.sleep(1.0)  # what the writer has deleted is on its way
    before = len(run.items())
    run.server.kill()
    run.server.start()
    run.use_primary(run.server.port)
    run.writer.execute("FLUSHALL")  # changes nothing, and tells the oracle
    again = run.rng.sample(run.writer.keys, 20)
    run.writer.write_now([run.writer.change(key) for key in again])
    held = run.wait(lambda: run.engine.status().get("deletions_held", 0), "deletions are held")
    kept = len(run.items())
    run.engine.command("deletions", "accept", "all")
    return f"{before} items before, {held} deletions held, {kept} items then" if kept >= before > 100 else ""


@fault("server: SWAPDB")
def swap_databases(run: Run) -> str:
    """Another keyspace, with other values of some keys, takes the place of the engine's, without an event."""
    client = run.client()
    run.writer.pause()
    run.sleep(0.3)
    run.writer.execute("SELECT", 1)
    keys = run.rng.sample(run.writer.keys, 30)
    run.writer.write_now([run.writer.change(key) for key in keys])
    run.writer.execute("SELECT", 0)
    before = client.dbsize()
    run.writer.execute("SWAPDB", 0, 1)
    after = client.dbsize()
    run.writer.start()
    return f"{before} keys before, {after} after" if after == len(keys) else ""
