"""Datasets that are replaced without an event, under real subscribers: what is there in the end is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.capture.watch.keepsake import KEY
from engine.config import RedisSettings
from engine.ring.counters import Counter
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import Capture, capture, route
from tests.servers import every_server
from tests.support import wait_for

KEYS = 200
BLIND = "~* &* +@all -info"


@pytest.fixture
def server(server_binary: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(binary=server_binary) as running:
        yield running


def age(client: Any, key: str) -> None:
    """Make the server believe that nobody has touched the key for long."""
    client.restore(key, 0, client.dump(key), replace=True, idletime=10_000)


def wait_watching(rig: Capture) -> None:
    """Wait until the engine has looked: what happens from now on happens in its time."""
    wait_for(lambda: rig.heard_until().since_ms, "the first watermark")


def wait_taken(rig: Capture, keys: set[bytes]) -> set[bytes]:
    """Wait until all of the keys came out of the rings; return all that did."""
    taken = rig.take_until(lambda changes: keys <= {change.key for _, _, change in changes})
    return {change.key for _, _, change in taken}


def fill(client: Any, prefix: str) -> set[bytes]:
    for number in range(KEYS):
        client.hset(f"{prefix}:{number}", "f", "v")
    return {f"{prefix}:{number}".encode() for number in range(KEYS)}


@every_server
def test_a_captured_server_that_follows_another(server: ValkeyServer, server_binary: Path) -> None:
    """REPLICAOF puts another dataset in the place of ours, without an event or another run id: all of it is found."""
    with ValkeyServer(binary=server_binary, config={"repl-diskless-sync-delay": "0"}) as other:
        theirs = fill(redis.Redis(port=other.port), "theirs")
        with capture(server, route("*")) as (rig, client):
            wait_taken(rig, fill(client, "ours"))
            wait_watching(rig)
            client.replicaof("127.0.0.1", other.port)
            wait_taken(rig, theirs)
            assert rig.count(Counter.GAPS)


@every_server
def test_a_captured_replica_that_is_synchronized_anew(server_binary: Path) -> None:
    """What a full synchronization brings is found; one that takes up where it was is no gap."""
    small = {"repl-diskless-sync-delay": "0", "repl-backlog-size": "16kb"}
    with (
        ValkeyServer(binary=server_binary, config=small) as primary,
        ValkeyServer(binary=server_binary, config={"replicaof": f"127.0.0.1 {primary.port}"}) as server,
    ):
        writer = redis.Redis(port=primary.port)
        wait_for(lambda: redis.Redis(port=server.port).info("replication")["master_link_status"] == "up", "it follows")
        with capture(server, route("*")) as (rig, client):
            wait_watching(rig)
            client.execute_command("CLIENT", "KILL", "TYPE", "master")
            wait_taken(rig, fill(writer, "a little"))
            watermark_ms = rig.heard_until().since_ms
            wait_for(lambda: rig.heard_until().since_ms > watermark_ms, "a look after it")
            assert rig.count(Counter.GAPS) == 0
            assert writer.info("stats")["sync_full"] == 1
            cut = writer.pipeline().execute_command("CLIENT", "KILL", "TYPE", "replica")
            for number in range(KEYS):
                cut.hset(f"much:{number}", "f", "x" * 1_000)
            cut.execute()
            wait_taken(rig, {f"much:{number}".encode() for number in range(KEYS)})
            assert writer.info("stats")["sync_full"] == 2


@every_server
def test_a_reset_that_hides_a_flush(server: ValkeyServer) -> None:
    """After CONFIG RESETSTAT a flush leaves the same count as one before it did: the reset itself is a gap."""
    with capture(server, route("*")) as (rig, client):
        wait_watching(rig)
        client.flushall()
        wait_for(lambda: rig.count(Counter.GAPS) == 1, "the flush that is seen")
        hidden = client.pipeline().config_resetstat().flushall()
        kept = fill(hidden, "written unheard")
        hidden.execute()
        wait_for(lambda: rig.count(Counter.GAPS) == 2, "the gap")
        wait_taken(rig, kept)


@every_server
def test_what_was_written_while_the_subscription_was_broken(server: ValkeyServer) -> None:
    """Counters and strings too, where small integers share one idle time: it may be that of long ago."""
    with capture(server, route("*")) as (rig, client):
        before = fill(client, "hash")
        client.mset({"counter": 11, "number": 1, "text": "before"})
        for number, key in enumerate(("old twelve", "old seven", "old text")):
            client.set(key, (12, 7, "x" * 50)[number])
            age(client, key)
        wait_taken(rig, before | {b"counter", b"number", b"text"})
        wait_watching(rig)
        broken = client.pipeline().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        broken.incr("counter").set("number", 7).set("text", "x" * 50).hset("hash:1", "f", "changed")
        broken.execute()
        wait_taken(rig, {b"counter", b"number", b"text", b"hash:1"})
        assert rig.count(Counter.RECONNECTS)


@every_server
def test_databases_swapped_while_the_subscription_is_broken(server: ValkeyServer) -> None:
    """The swap is seen by its count when the engine is back: keys that nobody has touched for long are found."""
    with capture(server, route("*")) as (rig, client):
        with redis.Redis(port=server.port, db=1) as elsewhere:
            theirs = fill(elsewhere, "theirs")
            for key in theirs:
                age(elsewhere, key.decode())
        wait_taken(rig, fill(client, "ours"))
        wait_watching(rig)
        client.pipeline().execute_command("CLIENT", "KILL", "TYPE", "pubsub").execute_command("SWAPDB", 0, 1).execute()
        wait_taken(rig, theirs)
        assert rig.count(Counter.RECONNECTS)


@every_server
def test_a_flush_that_the_user_may_not_see(server_binary: Path) -> None:
    """Without +info no count tells of a flush: a key that stays does, and is nobody's data."""
    with ValkeyServer(binary=server_binary, config={"user": [f"engine on >secret {BLIND}"]}) as server:
        blind = RedisSettings(url=server.url, username="engine", password="secret")
        with capture(server, route("*"), redis_settings=blind) as (rig, client):
            wait_taken(rig, fill(client, "before"))
            wait_for(lambda: client.exists(KEY), "the key that stays")
            wait_watching(rig)
            gaps = rig.count(Counter.GAPS)
            client.flushall()
            wait_for(lambda: rig.count(Counter.GAPS) > gaps, "the gap")
            taken = wait_taken(rig, fill(client, "after"))
            wait_for(lambda: rig.count(Counter.REPAIRS), "the repair")
            assert KEY not in taken | {change.key for _, _, change in rig.take()}
            assert 0 < client.ttl(KEY) <= 86_400
