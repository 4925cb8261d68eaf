"""Whether a key that is gone may have been evicted, asked of real servers."""

from __future__ import annotations

from pathlib import Path

import redis

from engine.capture.preflight import evictions_of
from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetcher
from engine.sandbox.valkey import ValkeyServer
from tests.servers import every_server
from tests.support import wait_for


def taken_away(server: ValkeyServer, events: dict[bytes, str]) -> dict[bytes, bool]:
    """Return what a fetcher says of these keys and their newest events."""
    fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
    try:
        values = fetcher.fetch([*events.items()], explained=frozenset({"del"}))
        return {value.key: value.is_taken_away for value in values}
    finally:
        fetcher.close()


@every_server
def test_a_server_without_evictions_takes_nothing_away_by_itself(server_binary: Path) -> None:
    """A key that is gone after a write was taken away; of one that is there, or was deleted, nobody asks."""
    with ValkeyServer(binary=server_binary) as server, redis.Redis(port=server.port) as client:
        client.hset("there", "f", "1")
        asked = {b"there": "hset", b"gone": "hset", b"deleted": "del", b"other": "repair"}
        expected = {b"there": False, b"gone": True, b"deleted": False, b"other": True}
        assert taken_away(server, asked) == expected
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert not any(taken_away(server, asked).values())


@every_server
def test_a_replica_does_not_know_what_its_primary_evicts(server_binary: Path) -> None:
    """There, an eviction is a ``del`` like any other: nothing is taken for certain."""
    with ValkeyServer(binary=server_binary) as server:
        config = {"replicaof": f"127.0.0.1 {server.port}"}
        with (
            ValkeyServer(binary=server_binary, config=config) as replica,
            redis.Redis(port=replica.port) as client,
        ):
            wait_for(lambda: client.info("replication")["master_link_status"] == "up", "in step")
            assert taken_away(replica, {b"gone": "hset"}) == {b"gone": False}
            assert evictions_of(RedisSettings(url=replica.url)) == ("", True)
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "volatile-lru")
            assert evictions_of(RedisSettings(url=replica.url)) == ("volatile-lru", True)
            assert evictions_of(RedisSettings(url=server.url)) == ("", False)
