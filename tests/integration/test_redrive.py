from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import redis

from engine.config import DeliverySettings, RedisSettings, RouteSettings, Settings, SupervisionSettings
from engine.delivery.failures.dead_letter import DeadLetter, FileSink
from engine.redrive.run import redrive
from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.valkey import ValkeyServer
from engine.settings.file import load_settings
from tests.support import WAIT_S, wait_for, whole_path

ENGINE = "engine-subscriber-1"


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def settings(server: ValkeyServer, tmp_path: Path) -> Settings:
    return Settings(
        redis=RedisSettings(url=server.url),
        delivery=DeliverySettings(dead_letter_file=str(tmp_path / "letters.jsonl")),
        supervision=SupervisionSettings(status_file=str(tmp_path / "status.json")),
        routes=(RouteSettings(name="carts", function="f"),),
    )


@pytest.fixture
def listen(server: ValkeyServer) -> Iterator[Callable[..., Any]]:
    """Subscribe to keyspace events as a client of this name."""
    kept: list[tuple[Any, Any]] = []

    def subscribed(name: str, *patterns: str) -> Any:
        client = redis.Redis(port=server.port, client_name=name)
        subscription = client.pubsub()
        kept.append((client, subscription))  # either would close the connection with its last reference
        subscription.psubscribe(*patterns)
        for _ in patterns:
            assert subscription.get_message(timeout=WAIT_S)["type"] == "psubscribe"
        return subscription

    yield subscribed
    for client, subscription in kept:
        subscription.close()
        client.close()


def write(server: ValkeyServer, *keys: bytes, database: int = 0) -> None:
    client = redis.Redis(port=server.port, db=database)
    client.mset(dict.fromkeys(keys, b"v"))
    client.close()


def bury(settings: Settings, *keys: bytes, body: str | None = "{}") -> None:
    letters = []
    for key in keys:
        record = msgspec.Raw(orjson.dumps({"body": body}))
        letters.append(DeadLetter(1, "carts", "f", key.decode(), "hset", 1, 3, "it broke", record=record))
    assert FileSink(settings.delivery.dead_letter_file, 1_000_000_000).write(letters) == ""


def buried(settings: Settings) -> int:
    path = Path(settings.delivery.dead_letter_file)
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def heard(subscription: Any, count: int) -> list[tuple[bytes, bytes]]:
    messages = [subscription.get_message(timeout=WAIT_S) for _ in range(count)]
    return [(message["channel"], message["data"]) for message in messages]


def test_a_subscriber_hears_of_every_key(server: ValkeyServer, settings: Settings, listen: Callable[..., Any]) -> None:
    """Keys come as events on their own channels, in order; the letters of those that are there are removed then.

    No engine runs here, so it is not known whether the delete of the one that is gone was settled.
    """
    subscription = listen(ENGINE, "__keyspace@0__:*")
    there = (b"cart:1", b"", b"a b\r\n*")
    write(server, *there)
    bury(settings, *there)
    bury(settings, b"gone", body=None)
    summary = redrive(settings)
    assert heard(subscription, 4) == [
        (b"__keyspace@0__:cart:1", b"repair"),
        (b"__keyspace@0__:", b"repair"),
        (b"__keyspace@0__:a b\r\n*", b"repair"),
        (b"__keyspace@0__:gone", b"repair_gone"),
    ]
    assert (summary.sent, summary.kept, summary.exit_code) == (3, 1, 1)
    assert "sent, and not known to be settled: 1 key;" in summary.problems[0]
    assert buried(settings) == 1


def test_the_database_is_the_urls(server: ValkeyServer, settings: Settings, listen: Callable[..., Any]) -> None:
    """Channels name the database that the engine captures."""
    subscription = listen(ENGINE, "__keyspace@3__:*")
    write(server, b"k", database=3)
    bury(settings, b"k")
    there = msgspec.structs.replace(settings, redis=RedisSettings(url=server.url.replace("/0", "/3")))
    assert redrive(there).exit_code == 0
    assert heard(subscription, 1) == [(b"__keyspace@3__:k", b"repair")]


def test_many_letters_and_large_keys(server: ValkeyServer, settings: Settings, listen: Callable[..., Any]) -> None:
    """Pipelines of every size go through: thousands of letters, and keys of a megabyte."""
    subscription = listen(ENGINE, "__keyspace@0__:*")
    found: list[tuple[bytes, bytes]] = []
    keys = [b"k%d" % number for number in range(3_000)] + [b"x" * 1_000_000 + b"%d" % number for number in range(20)]
    reader = threading.Thread(target=lambda: found.extend(heard(subscription, len(keys))))
    reader.start()
    write(server, *keys)
    bury(settings, *keys)
    assert redrive(settings).sent == len(keys)
    reader.join(WAIT_S)
    assert [channel.removeprefix(b"__keyspace@0__:") for channel, _ in found] == keys


def test_without_a_subscriber_everything_is_kept(server: ValkeyServer, settings: Settings) -> None:
    """The engine does not run: exit code 1, the remedy, and every letter in its place."""
    write(server, b"a", b"b")
    bury(settings, b"a", b"b")
    summary = redrive(settings)
    assert (summary.sent, summary.kept, summary.exit_code) == (0, 2, 1)
    assert "heard of 2 of 2 keys" in summary.problems[0]
    assert buried(settings) == 2


def test_a_stranger_is_no_engine(server: ValkeyServer, settings: Settings, listen: Callable[..., Any]) -> None:
    """Somebody else who is subscribed to all events delivers nothing: the letters are kept."""
    listen("dashboard", "__keyspace@0__:*")
    write(server, b"a")
    bury(settings, b"a")
    assert redrive(settings).sent == 0
    assert buried(settings) == 1


@pytest.mark.parametrize("monitor", [(), ("*", "__keyspace@0__:*")])
def test_a_shard_that_does_not_listen_keeps_its_keys(
    server: ValkeyServer, settings: Settings, listen: Callable[..., Any], monitor: tuple[str, ...]
) -> None:
    """Keys that the one connected subscriber hears are sent; those of the other shard are kept, whoever else hears."""
    listen(ENGINE, "__keyspace@0__:*[1]")
    if monitor:
        listen("monitor", *monitor)
    write(server, b"k1", b"k2")
    bury(settings, b"k1", b"k2")
    summary = redrive(settings)
    assert (summary.sent, summary.kept, summary.exit_code) == (1, 1, 1)
    assert ("not known to be settled: 1 key;" if monitor else "1 of 2 keys") in summary.problems[0]
    assert b'"k2"' in Path(settings.delivery.dead_letter_file).read_bytes()


def test_a_user_who_may_not_publish_is_told(
    server: ValkeyServer, settings: Settings, listen: Callable[..., Any]
) -> None:
    """A missing right is told with the command that grants it, and nothing is removed."""
    listen(ENGINE, "__keyspace@0__:*")
    client = redis.Redis(port=server.port)
    client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "allkeys", "allchannels", "+@all", "-publish")
    bury(settings, b"a")
    limited = RedisSettings(url=server.url, username="reader", password="secret")
    summary = redrive(msgspec.structs.replace(settings, redis=limited))
    assert "+publish" in summary.problems[0]
    assert summary.exit_code == 1
    assert buried(settings) == 1


def test_a_client_without_names_knows_no_engine(
    server: ValkeyServer, settings: Settings, listen: Callable[..., Any]
) -> None:
    """Where clients may not be named or listed, whoever hears may be anybody: the letters are kept."""
    client = redis.Redis(port=server.port)
    client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "allkeys", "allchannels", "+@all", "-client")
    listen("whoever", "__keyspace@0__:*")
    write(server, b"a")
    bury(settings, b"a")
    limited = RedisSettings(url=server.url, username="plain", password="secret")
    assert redrive(msgspec.structs.replace(settings, redis=limited)).exit_code == 1
    assert buried(settings) == 1


GATED = """\
[[routes]]
name = "all"
function = "gate"
events = ["*", "del"]
maximum_retry_attempts = 0
"""


def test_the_engine_delivers_what_was_given_up_on(tmp_path: Path) -> None:
    """Dead letters of a broken function arrive, by a redrive, once it is whole: keys as they are then, and deletes."""
    healed = tmp_path / "healed"
    gate = FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(healed)})
    with whole_path(tmp_path, functions=[gate]) as path:
        path.write_config(GATED)
        path.start()
        client = path.client
        client.hset("old", "f", "1")
        client.hset(b"binary\xff", "f", "1")
        client.set("gone", "1")
        client.delete("gone")
        letters = tmp_path / "dead_letters.jsonl"
        expected = {"old": '{"f":"1"}', "YmluYXJ5/w==": '{"f":"1"}', "gone": None}

        def found() -> list[dict[str, Any]]:
            return [orjson.loads(line) for line in letters.read_bytes().splitlines()] if letters.exists() else []

        def are_all_there() -> bool:
            return {(one["id"], one["record"]["body"]) for one in found()} >= set(expected.items())

        wait_for(are_all_there, "a letter of each key's last value")
        count = len(found())
        assert all(one["failure"] == "function_error" and one["record"]["version"] for one in found())
        healed.touch()
        before = len(path.records())
        settings = load_settings(str(path.config), path.environment, {})
        summary = redrive(settings)
        assert (summary.sent, summary.exit_code) == (count, 0)

        def delivered() -> dict[str, Any]:
            return {record["id"]: record["body"] for record in path.records()[before:]}

        wait_for(lambda: len(delivered()) == 3, "all of them at the function")
        assert delivered() == expected
        assert not letters.exists()
        assert path.stop() == 0


def test_a_server_that_is_away_keeps_everything(settings: Settings) -> None:
    """No server: a line that names it, exit code 1, and every letter in its place."""
    bury(settings, b"a")
    away = msgspec.structs.replace(settings, redis=RedisSettings(url="redis://127.0.0.1:1/0"))
    summary = redrive(away)
    assert "127.0.0.1:1" in summary.problems[0]
    assert summary.exit_code == 1
    assert buried(settings) == 1
