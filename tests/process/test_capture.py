from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.lifecycle import Drain, Failed, MappingChanged, RoutesInForce, SetRoutes, Stop
from engine.ring.counters import ChildState, Counter
from engine.routing.events import REPAIR
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import Capture, Taken, capture, route, wait_for
from tests.shard_plan import plan_shards
from tests.tls_proxy import make_certificates, tls_in_front_of

SMALL_RING = RingSettings(ring_bytes=65_536, frame_bytes_max=8_192)
ODD_KEYS = [b"", b"\x00", b"*[]?\\^-", b"\xff\xfe\x80 binary\r\n", "käse".encode(), b"x" * 1_000_000]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def hset(client: Any, keys: list[bytes]) -> None:
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.hset(key, "field", "value")
    pipe.execute()


def keys_of(taken: Taken) -> list[bytes]:
    return [change.key for _, _, change in taken]


@pytest.mark.parametrize(("shards", "invokers"), [(1, 1), (3, 2), (8, 1)])
def test_every_key_arrives_once(server: ValkeyServer, shards: int, invokers: int) -> None:
    """Keys of every last byte, the empty, a binary and a 1 MB key each reach one ring: that of the shard that owns
    them and of their hash's invoker.
    """
    keys = [*ODD_KEYS, *(b"k:" + bytes([byte]) for byte in range(256))]
    plan = plan_shards(shards, 0, ())
    with capture(server, shards=shards, invokers=invokers) as (running, client):
        hset(client, keys)
        taken = running.take_until(lambda taken: len(taken) >= len(keys))
        running.send(Drain())
        assert running.join() == [0] * shards
        taken += running.take()
        assert running.count(Counter.EVENTS_READ) == len(keys)
    assert sorted(keys_of(taken)) == sorted(keys)
    for shard, invoker, change in taken:
        assert plan[shard].owns(change.key)
        assert invoker == crc32(change.key) % invokers
        assert change.event == "hset"


def test_changes_that_keep_coming_share_frames(server: ValkeyServer) -> None:
    """Within an interval changes gather in the socket: they come in few frames, and none is left behind."""
    keys = [b"cart:%d" % number for number in range(40)]
    with capture(server, gather_ms=2_000) as (running, client):
        for key in keys:
            client.hset(key, "field", "value")
        taken = running.take_until(lambda taken: len(taken) >= len(keys))
        assert running.count(Counter.FRAMES_WRITTEN) <= len(keys) / 2
        client.hset("cart:last", "field", "value")
        running.send(Drain())
        assert running.join() == [0]
        taken += running.take()
    assert keys_of(taken) == [*keys, b"cart:last"]


def test_what_no_route_wants_is_left_alone(server: ValkeyServer) -> None:
    """Events that no route lists, and keys that no route takes, are read and go no further."""
    with capture(server, route("hset", keys=("cart:*",)), route("del", name="gone")) as (running, client):
        client.set("cart:0", "no hash")
        client.hset("user:1", "a", "b")
        client.hset("cart:1", "a", "b")
        client.delete("user:1")
        taken = running.take_until(lambda taken: len(taken) >= 2)
        assert [(change.key, change.event, change.routes) for _, _, change in taken] == [
            (b"cart:1", "hset", 1),
            (b"user:1", "del", 2),
        ]
        assert running.count(Counter.EVENTS_READ) == 4
        assert running.count(Counter.EVENTS_ROUTED) == 2


def test_a_full_ring_means_coalescing(server: ValkeyServer) -> None:
    """While nobody reads, the socket is still drained and keys wait, each once; once the ring frees, all arrive."""
    keys = [b"cart:%d" % number for number in range(10_000)]
    with capture(server, ring=SMALL_RING) as (running, client):
        for _ in range(5):
            hset(client, keys)
        wait_for(lambda: running.count(Counter.EVENTS_READ) == 50_000, "all events are read")
        wait_for(lambda: running.count(Counter.EVENTS_COALESCED) > 20_000, "events were merged")
        assert running.count(Counter.RING_FULL) > 0
        assert 5_000 < running.count(Counter.DIRTY_KEYS) <= 10_000
        taken = running.take_until(lambda taken: running.count(Counter.DIRTY_KEYS) == 0)
        taken += running.take()
        assert set(keys_of(taken)) == set(keys)
        assert len(taken) == running.count(Counter.CHANGES_WRITTEN) == 50_000 - running.count(Counter.EVENTS_COALESCED)
        assert running.count(Counter.GAPS) == running.count(Counter.EVENTS_DROPPED) == 0


def test_overflow_is_one_gap(server: ValkeyServer) -> None:
    """Past the bound of the dirty set new keys are dropped and counted, as one gap however long it lasts."""
    with capture(server, ring=SMALL_RING, settings=CaptureSettings(dirty_keys_max=500)) as (running, client):
        parts = itertools.count()

        def overfill() -> bool:
            part = next(parts)
            hset(client, [b"cart:%d:%d" % (part, number) for number in range(400)])
            return running.count(Counter.EVENTS_DROPPED) > 0 and running.count(Counter.RING_FULL) > 0

        wait_for(overfill, "ring and set are full")
        for _ in range(10):
            overfill()
        events = next(parts) * 400
        wait_for(lambda: running.count(Counter.EVENTS_READ) == events, "all events are read")
        wait_for(lambda: running.count(Counter.DIRTY_KEYS) == 500, "the set is full")
        kept = running.count(Counter.CHANGES_WRITTEN) + 500
        wait_for(lambda: running.count(Counter.EVENTS_DROPPED) == events - kept, "the others are counted")
        assert running.count(Counter.GAPS) == 1


def test_long_keys_are_counted_and_left_out(server: ValkeyServer) -> None:
    """A key longer than the bound is counted and not captured; the others are."""
    with capture(server, settings=CaptureSettings(key_bytes_max=100)) as (running, client):
        hset(client, [b"x" * 101, b"y" * 100])
        taken = running.take_until(lambda taken: len(taken) > 0)
        assert keys_of(taken) == [b"y" * 100]
        assert running.count(Counter.KEYS_TOO_LONG) == 1


def heard(taken: Taken) -> list[bytes]:
    """Return the keys of events, without those that a repair found."""
    return [change.key for _, _, change in taken if change.event != REPAIR]


def test_a_cut_connection_is_made_again(server: ValkeyServer) -> None:
    """A killed connection is one gap and one reconnect a shard, and what comes after it is captured."""
    with capture(server, shards=2) as (running, client):
        client.client_kill_filter(_type="pubsub")
        wait_for(lambda: running.count(Counter.RECONNECTS) == 2, "both listen again")
        assert running.count(Counter.GAPS) == 2
        hset(client, [b"a", b"\xff"])
        taken = running.take_until(lambda taken: len(heard(taken)) >= 2)
        assert sorted(heard(taken)) == [b"a", b"\xff"]


def test_a_restarted_server_notifies_again(server: ValkeyServer) -> None:
    """A server that comes back without its flags gets them again: silence after a restart would be the worst."""
    with capture(server) as (running, client):
        server.kill()
        wait_for(lambda: running.count(Counter.GAPS) == 1, "the loss is noticed")
        server.start()
        wait_for(lambda: running.count(Counter.RECONNECTS) == 1, "it listens again")
        hset(client, [b"after"])
        assert heard(running.take_until(lambda taken: len(heard(taken)) > 0)) == [b"after"]
        assert set(client.config_get("notify-keyspace-events").popitem()[1]) == set("Kh")


def test_drain_hands_on_what_was_published_before(server: ValkeyServer) -> None:
    """After a drain all that was answered before it is in the rings, though they were full; the child exits with 0."""
    keys = [b"cart:%d" % number for number in range(20_000)]
    with capture(server, shards=2, ring=SMALL_RING) as (running, client):
        hset(client, keys)
        running.send(Drain())
        taken = running.take_until(lambda _: not any(process.is_alive() for process in running.processes))
        assert running.join() == [0, 0]
        taken += running.take()
        assert set(keys_of(taken)) == set(keys)
        assert {row.state for row in running.board.rows} == {ChildState.DRAINED}
        assert running.count(Counter.GAPS) == 0


def test_drain_with_a_server_that_hangs(server: ValkeyServer) -> None:
    """A server that answers nothing can't hold up a drain for long; what may be missing is declared a gap."""
    with capture(server) as (running, _client):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            running.send(Drain())
            assert running.join() == [0]
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert running.board.row(0).state is ChildState.DRAINED
        assert running.count(Counter.GAPS) == 1


@pytest.mark.parametrize("how", ["stop", "supervisor gone"])
def test_stop(server: ValkeyServer, how: str) -> None:
    """A child stops when it is told to, and when its supervisor is gone, also with a full ring."""
    with capture(server, ring=SMALL_RING) as (running, client):
        hset(client, [b"cart:%d" % number for number in range(10_000)])
        wait_for(lambda: running.count(Counter.RING_FULL) > 0, "the ring is full")
        if how == "stop":
            running.send(Stop())
        else:
            running.channels[0].close()
        assert running.join() == [0]


def test_new_routes(server: ValkeyServer) -> None:
    """A new table is confirmed with its version, and rules from then on."""
    with capture(server, route("hset")) as (running, client):
        table = RouteTable.build([route("set", name="strings")], running.table)
        running.send(SetRoutes(table.encode()))
        assert wait_for(running.heard, "it is confirmed") == [RoutesInForce(2)]
        client.hset("hash", "a", "b")
        client.set("string", "a")
        assert keys_of(running.take_until(lambda taken: len(taken) > 0)) == [b"string"]


def test_mappings_are_reported_and_never_data(server: ValkeyServer) -> None:
    """Changes of mapping hashes become one report, however many come together, and no delivery."""
    with capture(server, mapping_prefix="__meta_record__") as (running, client):
        hset(client, [b"__meta_record__Dynamo|%d" % number for number in range(50)] + [b"cart:1"])
        assert keys_of(running.take_until(lambda taken: len(taken) > 0)) == [b"cart:1"]
        assert wait_for(running.heard, "it is reported") == [MappingChanged()]


LOCKED = {
    "user": [
        "default on >top-secret ~* &* +@all",
        "engine on >guest-key resetkeys allchannels -@all +psubscribe +ping +time",
    ]
}


def test_a_user_with_few_rights(capfd: pytest.CaptureFixture[str]) -> None:
    """A subscriber needs no more than to subscribe, to ping and to ask the time, and logs no password."""
    with ValkeyServer(config=LOCKED) as server:
        settings = RedisSettings(url=server.url, username="engine", password="guest-key")
        with capture(server, shards=2, redis_settings=settings, password="top-secret") as (running, client):
            hset(client, [b"a"])
            assert keys_of(running.take_until(lambda taken: len(taken) > 0)) == [b"a"]
            client.client_kill_filter(_type="pubsub")
            wait_for(lambda: running.count(Counter.RECONNECTS) == 2, "both listen again")
    assert "guest-key" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("rights", "password", "hint"),
    [
        ("allchannels +psubscribe", "wrong", "redis.password"),
        ("resetchannels +psubscribe +time", "right", "allchannels"),
    ],
)
def test_a_mistake_at_the_start_is_told(rights: str, password: str, hint: str) -> None:
    """A wrong password, or a missing right, ends the child with 1 and a report with its remedy."""
    users = {"user": ["default on >top-secret ~* &* +@all", f"engine on >right -@all {rights}"]}
    with ValkeyServer(config=users) as server:
        settings = RedisSettings(url=server.url, username="engine", password=password)
        with capture(server, redis_settings=settings, password="top-secret", is_ready=False) as (running, _):
            assert running.join() == [1]
            (report,) = running.heard()
            assert isinstance(report, Failed)
            assert hint in report.hint


def test_a_server_that_is_late() -> None:
    """A server that is not there yet is waited for; the child is ready once it comes."""
    server = ValkeyServer().start()
    server.kill()
    settings = RedisSettings(url=server.url)
    running = Capture(settings, plan_shards(1, 0, ()), (route(),), settings=CaptureSettings(), ring=RingSettings())
    try:
        running.start()
        wait_for(lambda: running.board.row(0).heartbeat_ms, "the child turns")
        assert running.board.row(0).state is not ChildState.READY
        server.start()
        running.wait_ready()
        assert running.count(Counter.GAPS) == 0
    finally:
        running.close()
        server.close()


def test_tls(server: ValkeyServer, tmp_path: Path) -> None:
    """Over TLS everything arrives: more than a record, and more than a read, at once."""
    certificates = make_certificates(tmp_path)
    keys = [b"cart:%d" % number for number in range(20_000)] + ODD_KEYS
    with tls_in_front_of(server.port, certificates) as port:
        settings = RedisSettings(url=f"rediss://127.0.0.1:{port}", tls_ca_file=str(certificates.authority))
        small_reads = CaptureSettings(read_bytes_max=8_192)
        with capture(server, redis_settings=settings, settings=small_reads) as (running, client):
            hset(client, keys)
            taken = running.take_until(lambda taken: len(taken) >= len(keys))
            assert sorted(keys_of(taken)) == sorted(keys)


def test_events_that_stop_where_the_flags_are_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    """Where CONFIG is refused, canaries show that events stopped; what was missed is found, and no canary is data."""
    users = {"user": ["default on nopass ~* &* +@all", "engine on >guest-key ~* &* +@all -config"]}
    with ValkeyServer(config=users) as server:
        settings = RedisSettings(url=server.url, username="engine", password="guest-key")
        everything = route("*", "del")
        with capture(server, everything, redis_settings=settings) as (running, client):
            hset(client, [b"heard"])
            taken = running.take_until(lambda taken: len(taken) > 0)
            wait_for(lambda: running.heard_until().since_ms, "a canary has verified a watermark")
            client.config_set("notify-keyspace-events", "")
            hset(client, [b"missed"])
            wait_for(lambda: running.count(Counter.GAPS) == 1, "the gap is known")
            client.config_set("notify-keyspace-events", "KA")
            taken += running.take_until(lambda taken: b"missed" in keys_of(taken))
    assert set(keys_of(taken)) == {b"heard", b"missed"}
