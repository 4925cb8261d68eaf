"""A cache that comes back empty: what its table holds stays, until somebody decides."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from engine.sandbox.demo import clean_environment, wait_until_ready
from engine.sandbox.stack import Sandbox
from engine.sandbox.valkey import ValkeyServer
from tests.servers import server_params
from tests.support import WAIT_S, wait_for

CONFIG = """\
[redis]
url = "{url}"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[delivery]
backlog_folder = "{folder}/backlog"
deadline_ms = 500
deadline_margin_ms = 200
[[routes]]
name = "carts"
function = "dynamodb"
keys = ["{prefix}*"]
events = ["*", "del", "expired", "evicted"]
destination = "dynamodb://{table}"
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


class Cache:
    """A server of no persistence, its keys in a part of the table of their own, and an engine between them."""

    def __init__(self, sandbox: Sandbox, server: ValkeyServer, folder: Path, prefix: str) -> None:
        self.sandbox, self.server, self.folder, self.prefix = sandbox, server, folder, prefix
        self.environment = clean_environment(sandbox.child_environment())
        self.config = folder / "engine.toml"
        self.config.write_text(CONFIG.format(url=server.url, folder=folder, table=sandbox.table, prefix=prefix))

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.server.port, protocol=2)

    def fill(self, count: int, text: str = "v", client: Any = None) -> None:
        pipe = (client or self.client).pipeline(transaction=False)
        for number in range(count):
            pipe.hset(f"{self.prefix}{number}", "f", text)
        pipe.execute()

    def items(self) -> dict[str, str]:
        pages = self.sandbox.dynamodb_client().get_paginator("scan")
        found = pages.paginate(TableName=self.sandbox.table, ConsistentRead=True)
        items = (item for page in found for item in page["Items"])
        return {item["id"]["S"]: item["body"]["S"] for item in items if item["id"]["S"].startswith(self.prefix)}

    @contextmanager
    def engine(self) -> Iterator[None]:
        command = [sys.executable, "-m", "engine", "start", "--config", str(self.config)]
        with (self.folder / "engine.log").open("a") as log:
            process = subprocess.Popen(command, env=self.environment, stderr=log)
        try:
            wait_until_ready(process, self.folder / "status.json")
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, self.log()
        finally:
            process.kill()
            process.wait()

    def log(self) -> str:
        return (self.folder / "engine.log").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine", *arguments, "--config", str(self.config)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_S)

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        return content

    def come_back_empty(self) -> None:
        self.server.kill()
        self.server.start()

    def is_settled(self) -> bool:
        """Tell whether the watermark moves: it is younger than a moment ago."""
        status = self.status()
        return bool(status["updated_at_ms"] - status["settled_until_ms"] < 3_000)


@pytest.fixture
def cache(sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cache]:
    binary = getattr(request, "param", None)
    with ValkeyServer(binary=binary) as server:
        yield Cache(sandbox, server, tmp_path, f"{tmp_path.name}:")


@pytest.mark.parametrize("cache", server_params("valkey-9.1", "redis-6.2"), indirect=True)
def test_a_cache_that_comes_back_empty_leaves_the_table(cache: Cache) -> None:
    """300 items stay, new values are delivered, the watermark moves on, and log, status and metrics say what is held;
    the choice is still open after a restart, and an acceptance deletes what is gone, once.
    """
    with cache.engine():
        cache.fill(300)
        wait_for(lambda: len(cache.items()) == 300, "the table is full")
        cache.come_back_empty()
        cache.client.hset(f"{cache.prefix}7", "f", "new")
        wait_for(lambda: cache.status().get("deletions_held") == 299, "299 deletions are held")
        wait_for(lambda: cache.items()[f"{cache.prefix}7"] == '{"f":"new"}', "values are delivered")
        wait_for(cache.is_settled, "the watermark moves on")
        assert len(cache.items()) == 300
        assert "deletions_held" in cache.log() and "engine deletions accept carts" in cache.log()
        assert '"DeletionsHeld":299' in cache.run("metrics").stdout
    with cache.engine():
        wait_for(lambda: cache.log().count("deletions_held") == 2, "it is said again after a restart")
        wait_for(cache.is_settled, "the watermark moves on")
        assert cache.status()["deletions_held"] == 299
        assert len(cache.items()) == 300
        assert cache.run("deletions", "accept", "carts").returncode == 0
        wait_for(lambda: cache.items() == {f"{cache.prefix}7": '{"f":"new"}'}, "what is gone is deleted")
        wait_for(lambda: cache.status()["deletions"] == [], "nothing is held any more")


@pytest.mark.parametrize("cache", server_params("valkey-9.1", "redis-6.2"), indirect=True)
def test_few_keys_of_an_empty_cache_stay_too_and_a_refusal_is_for_good(cache: Cache) -> None:
    """A server that came back empty deletes not even ten keys; refused ones outlive restarts, audits and gaps, while a
    key that is deleted later in a gap leaves the table as ever.
    """
    with cache.engine():
        cache.fill(10)
        wait_for(lambda: len(cache.items()) == 10, "the table is full")
        cache.come_back_empty()
        wait_for(lambda: cache.status().get("deletions_held") == 10, "ten deletions are held")
        cache.fill(3, "again")
        wait_for(lambda: '{"f":"again"}' in cache.items().values(), "values are delivered")
    assert cache.run("deletions", "refuse", "carts").returncode == 0
    with cache.engine():
        wait_for(lambda: [one["kept"] for one in cache.status().get("deletions", [])] == [7], "seven are kept")
    cache.client.delete(f"{cache.prefix}1")
    with cache.engine():
        wait_for(lambda: f"{cache.prefix}1" not in cache.items(), "what was deleted in the gap is gone")
        audited = cache.run("audit", "--accept-deletions", "--json")
        assert audited.returncode == 0, audited.stdout
        (report,) = orjson.loads(audited.stdout)["routes"]
        assert (report["refused"], report["differences"], report["extra"]["count"]) == (7, 0, 0)
        wait_for(cache.is_settled, "the watermark moves on")
        assert len(cache.items()) == 9
    shown = orjson.loads(cache.run("deletions", "--json").stdout)
    assert (shown["deletions_held"], shown["deletions"][0]["kept"]) == (0, 7)


def test_a_replica_whose_primary_comes_back_empty_leaves_the_table(sandbox: Sandbox, tmp_path: Path) -> None:
    """The replica's process goes on, its dataset is another, and nothing was loaded: not even ten keys are deleted."""
    with (
        ValkeyServer(config={"repl-diskless-sync-delay": "0"}) as primary,
        ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
    ):
        cache = Cache(sandbox, replica, tmp_path, f"{tmp_path.name}:")
        with cache.engine():
            with redis.Redis(port=primary.port) as client:
                wait_for(lambda: client.wait(1, 100), "the replica follows")
                cache.fill(10, client=client)
            wait_for(lambda: len(cache.items()) == 10, "the table is full")
            primary.kill()
            primary.start()
            wait_for(lambda: cache.client.dbsize() == 0, "the replica is as empty")
            wait_for(lambda: cache.status().get("deletions_held") == 10, "ten deletions are held")
            wait_for(cache.is_settled, "the watermark moves on")
            assert len(cache.items()) == 10
