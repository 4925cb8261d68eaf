from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.capture.mappings import MAPPINGS_MAX, read_mappings
from engine.capture.own_keys import CANARY_PREFIX
from engine.capture.preflight import CapturePlan, prepare_capture
from engine.config import CaptureSettings, OriginalSettings, RedisSettings, RouteSettings, Settings
from engine.errors import NotificationsOff, RedisRefused, RedisUnreachable
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from engine.supervision.errands.rights import look_at_rights
from tests.capture_rig import route, wait_for
from tests.servers import every_server

SECRET = "top-secret"


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def client_of(server: ValkeyServer) -> Any:
    return redis.Redis(port=server.port)


def flags_of(server: ValkeyServer) -> set[str]:
    return set(client_of(server).config_get("notify-keyspace-events")["notify-keyspace-events"])


def plan(url: str, *routes: RouteSettings, shards: int = 2, prefix: str = "", **options: Any) -> CapturePlan:
    settings = Settings(
        redis=RedisSettings(url=url, **options),
        capture=CaptureSettings(shards=shards),
        original=OriginalSettings(mapping_prefix=prefix),
    )
    return prepare_capture(settings, RouteTable.build(routes or (route(),)))


def test_flags_are_merged(server: ValkeyServer) -> None:
    """What others set stays, what the routes need is added, and nothing more."""
    client_of(server).config_set("notify-keyspace-events", "Ex")
    assert plan(server.url).warnings == ()
    assert flags_of(server) == set("ExKh")
    plan(server.url, route("set", "del"))
    assert flags_of(server) == set("ExKhg$")


def test_mapping_hashes_need_their_flags_too(server: ValkeyServer) -> None:
    """With the original's mappings in use, changes to those hashes notify, whatever the routes want."""
    plan(server.url, route("set"), prefix="__meta_record__")
    assert flags_of(server) >= set("Kgh$")


def test_flags_that_may_not_be_set(server: ValkeyServer) -> None:
    """Where the engine may not set flags, the error gives the command with the merged flags; nothing is changed."""
    client_of(server).config_set("notify-keyspace-events", "Ex")
    with pytest.raises(NotificationsOff) as caught:
        plan(server.url, set_notifications=False)
    command, _, flags = caught.value.hint.partition(" notify-keyspace-events ")
    assert command.endswith("CONFIG SET")
    assert set(flags.split(",")[0]) == set("xEKh")
    assert flags_of(server) == set("Ex")


def locked(rights: str, flags: str) -> ValkeyServer:
    users = [f"default on >{SECRET} ~* &* +@all", f"engine on >{SECRET} ~* &* {rights}"]
    return ValkeyServer(config={"user": users, "notify-keyspace-events": flags})


def plan_as_engine(server: ValkeyServer, *routes: RouteSettings) -> CapturePlan:
    return plan(server.url, *routes, username="engine", password=SECRET)


ALL_TYPES = route("hset", "set", "rpush", "sadd", "zadd", "xadd", "del", "expired")


def test_a_canary_shows_that_events_come() -> None:
    """Where CONFIG is refused, events that come are proof enough; the canaries are gone afterwards."""
    with locked("+@all -config", "KA") as server:
        assert plan_as_engine(server, ALL_TYPES).warnings == ()
        client = redis.Redis(port=server.port, password=SECRET)
        assert client.keys(f"{CANARY_PREFIX}*") == []


@pytest.mark.parametrize(("flags", "missing"), [("", "hg"), ("Kg", "h"), ("Eh", "hg")])
def test_a_canary_shows_what_is_off(flags: str, missing: str) -> None:
    """Where CONFIG is refused and a class of events does not come, the error names it and the parameter group."""
    with locked("+@all -config", flags) as server, pytest.raises(NotificationsOff) as caught:
        plan_as_engine(server, route("hset", "del"))
    assert repr(missing) in caught.value.message
    assert "parameter group" in caught.value.hint


def test_a_user_who_may_neither_look_nor_try() -> None:
    """A user without CONFIG who may not write a canary either is told which right to grant."""
    with locked("+@read +@connection +@pubsub", "KA") as server, pytest.raises(RedisRefused) as caught:
        plan_as_engine(server)
    assert "ACL SETUSER" in caught.value.hint
    assert SECRET not in str(caught.value)


def test_config_set_alone_is_refused() -> None:
    """A user who sees the flags and may not set them learns the merged flags."""
    with locked("+@all -config|set", "xE") as server, pytest.raises(NotificationsOff) as caught:
        plan_as_engine(server)
    assert "+config|set" in caught.value.hint
    assert "set notify-keyspace-events to xEKh" in caught.value.hint


@every_server
def test_patterns_that_the_user_may_not_hear(server_binary: Path) -> None:
    """A user whose channels hold one shard's pattern, and no others, is refused with several shards and the remedy."""
    users = f"engine on >{SECRET} ~* resetchannels &__keyspace@0__:* +@all"
    config = {"user": [f"default on >{SECRET} ~* &* +@all", users], "notify-keyspace-events": "KA"}
    with ValkeyServer(config=config, binary=server_binary) as server:
        engine = {"username": "engine", "password": SECRET}
        assert len(plan(server.url, shards=1, **engine).feeds) == 1
        with pytest.raises(RedisRefused, match="subscribe") as caught:
            plan(server.url, shards=2, **engine)
    assert "allchannels" in caught.value.hint


@every_server
@pytest.mark.parametrize("flags", ["KA", ""])
def test_a_user_who_may_not_ping(server_binary: Path, flags: str) -> None:
    """What the subscribers' connections need is tried before the start, whatever the flags are."""
    config = {"user": [f"engine on >{SECRET} ~* &* +@all -ping"], "notify-keyspace-events": flags}
    with ValkeyServer(config=config, binary=server_binary) as server, pytest.raises(RedisRefused) as caught:
        plan(server.url, set_notifications=False, username="engine", password=SECRET)
    assert "+ping" in caught.value.hint


@every_server
def test_commands_that_the_user_may_not_run(server_binary: Path) -> None:
    """Those of repairs and reads are tried: a warning each names what lacks, of keys that the user may not see too."""
    config = {"user": [f"engine on >{SECRET} ~cart:* &* +@all -scan -hgetall -zrange"], "notify-keyspace-events": "KA"}
    with ValkeyServer(config=config, binary=server_binary) as server:
        settings = Settings(redis=RedisSettings(url=server.url, username="engine", password=SECRET))
        table = RouteTable.build([route()])
        repairs, *_ = prepare_capture(settings, table).warnings
        assert "+scan" in repairs
        (reads,) = look_at_rights(settings, table).warnings
        assert reads.endswith("ACL SETUSER engine +hgetall +zrange")


def test_a_replica_serves(server: ValkeyServer) -> None:
    """Capturing from a replica that is meant is fine, and the plan says what it is; otherwise it is its primary."""
    client_of(server).config_set("repl-diskless-sync-delay", 0)
    with ValkeyServer(config={"replicaof": f"127.0.0.1 {server.port}"}) as replica:
        wait_for(lambda: client_of(replica).info("replication")["master_link_status"] == "up", "it is in step")
        assert "replica" in plan(replica.url, read_from="replica").server
        followed = plan(replica.url)
        assert "primary" in followed.server
        assert any("is a replica: changes are captured" in warning for warning in followed.warnings)


def test_nobody_there() -> None:
    """An unreachable server is said to be that."""
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1:1:"):
        plan("redis://127.0.0.1:1")


def test_shards_follow_the_keys(server: ValkeyServer) -> None:
    """The keys that are there are sampled: those that end in digits are spread over all shards."""
    pipe = client_of(server).pipeline(transaction=False)
    keys = [b"cart:%d" % number for number in range(2_000)]
    for key in keys:
        pipe.set(key, 1)
    pipe.execute()
    feeds = plan(server.url, shards=4).feeds
    assert min(sum(map(feed.owns, keys)) for (feed,) in feeds) > 300


def test_one_hot_ending_is_a_warning(server: ValkeyServer) -> None:
    """Keys that all end alike make one hot shard, and a warning."""
    client_of(server).mset({f"user:{number}:profile": 1 for number in range(50)})
    (warning,) = plan(server.url, shards=4).warnings
    assert "one shard would do" in warning


def test_an_empty_server(server: ValkeyServer) -> None:
    """A server without keys is cut too, and described."""
    made = plan(server.url, shards=3)
    assert len(made.feeds) == 3
    assert made.server.startswith("Valkey 9")
    assert "noeviction" in made.server


def test_mappings_are_read(server: ValkeyServer) -> None:
    """Hashes under the prefix are read, which is taken literally; other types and other keys are not."""
    client = client_of(server)
    client.hset("__meta[*]__Dynamo|cart", mapping={"name": "cart", "lambda": "arn"})
    client.hset(b"__meta[*]__\xff", "name", b"\xfe")
    client.set("__meta[*]__string", "no")
    client.hset("__meta*__other", "a", "b")
    assert read_mappings(RedisSettings(url=server.url), "__meta[*]__") == {
        "__meta[*]__Dynamo|cart": {"name": "cart", "lambda": "arn"},
        "__meta[*]__\udcff": {"name": "\ufffd"},
    }


def test_too_many_mappings(server: ValkeyServer) -> None:
    """A prefix that data begins with is refused instead of read into memory."""
    pipe = client_of(server).pipeline(transaction=False)
    for number in range(MAPPINGS_MAX + 1):
        pipe.hset(f"cart:{number}", "a", "b")
    pipe.hset("big:1", mapping={str(number): 1 for number in range(1_000)})
    pipe.execute()
    for prefix in ("cart:", "big:"):
        with pytest.raises(RedisRefused, match=prefix):
            read_mappings(RedisSettings(url=server.url), prefix)
