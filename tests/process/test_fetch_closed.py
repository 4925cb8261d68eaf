"""Servers that end a connection inside a pipeline, by limits of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetcher, Key
from engine.delivery.reading.node_reader import CLOSES_MAX
from engine.errors import RedisUnreachable
from engine.sandbox.valkey import ValkeyServer
from tests.servers import every_server
from tests.support import wait_for, whole_path

LIMIT = {"client-output-buffer-limit": "normal 4mb 0 0"}
CHARS = 300_000


def fill(client: Any, count: int = 60) -> list[Key]:
    pipe = client.pipeline(transaction=False)
    for number in range(count):
        pipe.set(f"key:{number}", f"{number}:" + "x" * CHARS)
    pipe.execute()
    return [(b"key:%d" % number, "set") for number in range(count)]


@every_server
def test_a_pipeline_that_the_server_ends_is_read_in_halves(server_binary: Path) -> None:
    """Every value arrives, though all of them together are past what the server lets one connection wait for."""
    with ValkeyServer(binary=server_binary, config=LIMIT) as server:
        keys = fill(redis.Redis(port=server.port))
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        values = fetcher.fetch(keys)
        assert [len(value.body or "") > CHARS for value in values] == [True] * len(keys)
        assert not any(value.error for value in values)
        fetcher.close()


def test_a_key_that_no_connection_survives_is_named_with_the_limit() -> None:
    """Down to the one key: it is retried, and then it can't be read, for a reason that names what to raise."""
    with ValkeyServer(config=LIMIT) as server:
        client = redis.Redis(port=server.port)
        client.rpush("big", *("y" * 500_000 for _ in range(20)))
        client.set("small", "1")
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        for _ in range(CLOSES_MAX - 1):
            with pytest.raises(RedisUnreachable, match="client-output-buffer-limit normal"):
                fetcher.fetch([(b"small", "set"), (b"big", "rpush")])
        small, big = fetcher.fetch([(b"small", "set"), (b"big", "rpush")])
        assert (small.body, small.error) == ('"1"', "")
        assert "client-output-buffer-limit normal" in big.error
        assert "maxmemory-clients" in big.error
        fetcher.close()


def test_a_connection_that_ends_by_chance_condemns_no_key() -> None:
    """A client that is killed now and then costs a retry: the key is read, and its count begins anew."""
    with ValkeyServer() as server:
        client = redis.Redis(port=server.port)
        client.set("a", "1")
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        for _ in range(CLOSES_MAX + 1):
            assert fetcher.fetch([(b"a", "set")])[0].body == '"1"'
            client.client_kill_filter(_type="normal", skipme=True)
        fetcher.close()


def test_the_engine_delivers_what_a_server_would_not_send_at_once(tmp_path: Path) -> None:
    """Changes of large values that came together are delivered, and the drain ends."""
    with whole_path(tmp_path, server_config=LIMIT) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "accept"\nevents = ["set"]\n', shards=1, invokers=1)
        path.start()
        keys = fill(path.client)
        wait_for(lambda: path.totals()["records_delivered"] >= len(keys), "all of them")
        assert path.stop() == 0, path.log()
