"""What has to be true of every node of a cluster before the start, on real ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from engine.capture.mappings import read_mappings
from engine.capture.preflight import CapturePlan, evictions_of, prepare_capture
from engine.config import CaptureSettings, OriginalSettings, RedisSettings, Settings
from engine.errors import NotificationsOff, RedisRefused, RedisUnreachable
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import route
from tests.cluster import SECRET, Cluster, cluster, wait_until
from tests.servers import NAMES

FLAGS = "notify-keyspace-events"


def settings_of(url: str, *, shards: int = 2, part: str = "0/1", prefix: str = "", **options: Any) -> Settings:
    return Settings(
        redis=RedisSettings(url=url, **options),
        capture=CaptureSettings(shards=shards, slice=part),
        original=OriginalSettings(mapping_prefix=prefix),
    )


def plan(url: str, *, is_running: bool = False, **options: Any) -> CapturePlan:
    return prepare_capture(settings_of(url, **options), RouteTable.build([route()]), is_running=is_running)


def flags_of(made: Cluster) -> list[set[str]]:
    return [set(node.client.config_get(FLAGS)[FLAGS]) for node in made.nodes]


@pytest.mark.parametrize("server", NAMES)
def test_all_nodes_are_seen_to(server: str) -> None:
    """Flags are merged on every node; feeds cover every node; each node's own clock is in the plan."""
    with cluster(server, primaries=3, config={FLAGS: "Ex"}) as made:
        client = made.client()
        for number in range(300):
            client.set(f"cart:{number}", 1)
        found = plan(made.url)
        assert flags_of(made) == [set("ExKh")] * 3
        assert found.warnings == () or all("Redis 6" in warning for warning in found.warnings)
        assert {node.id: node.address for node in found.topology.nodes} == {
            node.id: node.address for node in made.nodes
        }
        assert [node.number for node in found.topology.nodes] == [0, 1, 2]
        feeds = [feed for of_shard in found.feeds for feed in of_shard]
        assert Counter(feed.node.id for feed in feeds) == Counter(node.id for node in made.nodes)
        assert all(of_shard for of_shard in found.feeds)
        assert found.server_ms.keys() == {node.id for node in made.nodes}
        assert "3 primaries" in found.server
        assert len([feed for of_shard in plan(made.url, shards=5).feeds for feed in of_shard]) == 5


def test_a_checkpoint_outlives_another_node_in_the_url() -> None:
    """Whichever node the URL names, a checkpoint is the cluster's: it knows nodes by their ids."""
    with cluster(primaries=2) as made:
        first, second = (plan(f"redis://{node.address}/0") for node in made.nodes)
        assert first.scope == second.scope == "cluster"


def test_one_node_that_can_not_notify() -> None:
    """A node whose flags may not be set is named, whatever the others do."""
    with cluster(primaries=2) as made:
        first, second = made.nodes
        first.client.config_set(FLAGS, "KA")
        with pytest.raises(NotificationsOff, match=second.address):
            plan(made.url, set_notifications=False)


def test_canaries_are_kept_on_their_node() -> None:
    """Where CONFIG is refused, each node is tried with keys whose slots are its own; a node without slots has none."""
    rights = "~* &* +@all -config"
    with cluster(primaries=2, users=[f"engine on >{SECRET} {rights}"], config={FLAGS: "KA"}) as made:
        made.add_node()
        url = f"redis://{made.nodes[0].address}"
        assert plan(url, username="engine", password=SECRET).warnings == ()
        made.nodes[1].client.config_set(FLAGS, "")
        with pytest.raises(NotificationsOff, match=made.nodes[1].address):
            plan(url, username="engine", password=SECRET)


def test_a_node_that_can_not_be_reached_is_named() -> None:
    """A node that is not where it says is told, with the setting that maps it; a reload passes it over."""
    with cluster(primaries=2) as made:
        first, second = made.nodes
        second.call("CONFIG", "SET", "cluster-announce-ip", "127.0.0.255")
        announced = f"127.0.0.255:{second.port}"
        wait_until(lambda: announced in first.call("CLUSTER", "NODES").decode(), "the address is announced")
        redis = {"connect_timeout_ms": 500}
        with pytest.raises(RedisUnreachable, match=announced) as caught:
            plan(made.url, **redis)
        assert "redis.node_addresses" in caught.value.hint
        assert len(plan(made.url, is_running=True, **redis).topology.nodes) == 2
        assert plan(made.url, node_addresses=(f"{announced}={second.address}",), **redis).warnings == ()


def test_a_database_in_a_cluster_is_refused() -> None:
    """A cluster has one database; a URL with another is refused in words."""
    with cluster(primaries=1) as made, pytest.raises(RedisRefused, match="database 0 alone"):
        plan(f"{made.url}/1")


def test_a_cluster_without_slots_is_told() -> None:
    """A node that has never been given slots is no cluster to capture from."""
    with (
        ValkeyServer(config={"cluster-enabled": "yes"}) as server,
        pytest.raises(RedisUnreachable, match="no node has slots 0-16383"),
    ):
        plan(server.url)


def test_a_failed_node_keeps_no_other_from_starting() -> None:
    """A dead primary whose cluster goes on without its slots is told, and listened to once it is back."""
    with cluster(primaries=3, config={"cluster-require-full-coverage": "no"}) as made:
        dead = made.nodes[2]
        made.kill(dead)
        wait_until(lambda: "fail" in made.known()[dead.id].flags, "it is known to be dead")
        found = plan(made.url)
        assert any(dead.id[:8] in warning and "has failed" in warning for warning in found.warnings)
        assert {node.id for node in found.topology.nodes} == {node.id for node in made.nodes}
        assert {feed.node.id for of_shard in found.feeds for feed in of_shard} == {node.id for node in made.nodes[:2]}
        assert not found.is_whole


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-6.2"])
def test_mappings_are_on_all_nodes(server: str) -> None:
    """Mapping hashes are read from every node, also those of a slot that is on its way."""
    with cluster(server, primaries=2) as made:
        client = made.client()
        wanted = {f"__meta__:{number}": {"name": f"n{number}"} for number in range(40)}
        for key, fields in wanted.items():
            client.hset(key, mapping=fields)
        assert read_mappings(RedisSettings(url=made.url), "__meta__") == wanted
        key = b"__meta__:7"
        source = made.owner_of(key)
        target = next(node for node in made.nodes if node is not source)
        slot = source.call("CLUSTER", "KEYSLOT", key)
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        source.call("MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)
        assert read_mappings(RedisSettings(url=made.url), "__meta__") == wanted


def test_evictions_of_any_node_count() -> None:
    """A node that evicts makes keys go, whatever the others are set to."""
    with cluster(primaries=2) as made:
        topology = plan(made.url).topology
        assert evictions_of(RedisSettings(url=made.url), topology) == ("", False)
        made.nodes[1].client.config_set("maxmemory", "100mb")
        made.nodes[1].client.config_set("maxmemory-policy", "allkeys-lru")
        assert evictions_of(RedisSettings(url=made.url), topology) == ("allkeys-lru", False)
