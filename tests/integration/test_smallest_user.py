"""The user that `engine check` prints is enough for all that the engine does, on every kind of server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from engine.sandbox.stack import Sandbox
from engine.sandbox.valkey import ValkeyServer
from tests.cluster import cluster, sentinels
from tests.servers import every_server
from tests.support import wait_for
from tests.table_rig import TableRig


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


def become_smallest(rig: TableRig, nodes: Sequence[Any], guards: Sequence[Any] = ()) -> None:
    """Make the users that `engine check` prints on all nodes and Sentinels, and have the engine be them from now on."""
    result = rig.run("check", "--json")
    found = [one for one in orjson.loads(result.stdout)["findings"] if one["place"] == "rights"]
    commands = dict(one["message"].split(": ", 1) for one in found)
    assert len(commands) == len(found) == 1 + bool(guards), result.stdout
    for which, places in (("the smallest user", nodes), ("the smallest user of the Sentinels", guards)):
        for place in places:
            place.execute_command(*commands[which].replace(">PASSWORD", ">secret").split())
            place.execute_command("ACL", "LOG", "RESET")
    for what in ("REDIS", *(["REDIS_SENTINEL"] if guards else [])):
        rig.environment |= {f"ENGINE_{what}_USERNAME": "engine", f"ENGINE_{what}_PASSWORD": "secret"}


def refusals(nodes: Sequence[Any]) -> list[Any]:
    """Return what the nodes have refused to the engine's user."""
    entries = (entry for node in nodes for entry in node.execute_command("ACL", "LOG"))
    found = [dict(zip(entry[::2], entry[1::2], strict=True)) if isinstance(entry, list) else entry for entry in entries]
    texts = [{str(name): str(value) for name, value in one.items()} for one in found]
    return [text for text in texts if "engine" in str(text)]


def tell_a_story(rig: TableRig, client: Any) -> None:
    """Have the engine do all that it can do: capture, repair, compare, audit, send again."""
    with rig.engine():
        client.hset(rig.key("hash"), "f", "v")
        client.set(rig.key("string"), "v")
        client.rpush(rig.key("list"), "a", "b")
        client.sadd(rig.key("set"), "a")
        client.zadd(rig.key("zset"), {"a": 1})
        client.xadd(rig.key("stream"), {"f": "v"})
        kinds = {"hash", "string", "list", "set", "zset", "stream"}
        wait_for(lambda: rig.items().keys() >= kinds, "all types are delivered")
        client.delete(rig.key("set"))
        wait_for(lambda: "set" not in rig.items(), "a delete is delivered")
        for number in range(20):
            client.hset(rig.key(number), "f", "v")
        wait_for(lambda: len(rig.items()) == 25, "more keys are delivered")
    client.delete(rig.key(7))
    client.set(rig.key(8), "a string now")
    with rig.engine():
        wait_for(lambda: rig.items().get("8") == '"a string now"', "the gap is repaired")
        wait_for(lambda: "7" not in rig.items(), "the comparison finds what was deleted in it")
        rig.forget("3")
        rig.bury("4")
        result = rig.run("redrive", "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        result = rig.run("audit", "--repair", "--json")
        assert orjson.loads(result.stdout)["routes"][0]["repaired"] == 1, result.stdout + result.stderr
        wait_for(lambda: "3" in rig.items(), "the audit's repair is delivered")
        result = rig.run("audit", "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        assert rig.run("status").returncode == 0
    assert "ACL SETUSER" not in rig.log()


@every_server
def test_a_server_without_cluster_mode(sandbox: Sandbox, tmp_path: Path, server_binary: Path) -> None:
    """Nothing is refused to it, from the first start to the last audit, also while other databases are flushed."""
    with ValkeyServer(binary=server_binary) as server, redis.Redis(port=server.port) as client:
        rig = TableRig(sandbox, server.url, tmp_path)
        become_smallest(rig, [client])
        tell_a_story(rig, client)
        assert refusals([client]) == []


def test_servers_that_sentinels_watch(sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither the servers nor the Sentinels refuse anything."""
    with sentinels(replicas=1) as watched:
        rig = TableRig(sandbox, watched.url, tmp_path)
        nodes, guards = ([one.client for one in ones] for ones in (watched.nodes, watched.guards))
        become_smallest(rig, nodes, guards)
        tell_a_story(rig, watched.client())
        assert refusals([*nodes, *guards]) == []


def test_a_cluster(sandbox: Sandbox, tmp_path: Path) -> None:
    """No node of it refuses anything."""
    with cluster(primaries=3) as made:
        rig = TableRig(sandbox, made.url, tmp_path)
        nodes = [node.client for node in made.nodes]
        become_smallest(rig, nodes)
        tell_a_story(rig, made.client())
        assert refusals(nodes) == []


@every_server
@pytest.mark.parametrize("after_ack", ["keep", "delete"])
def test_streams(sandbox: Sandbox, tmp_path: Path, server_binary: Path, after_ack: str) -> None:
    """It reads them, acknowledges entries, finds what was removed unread, and is refused nothing."""
    with ValkeyServer(binary=server_binary) as server, redis.Redis(port=server.port) as client:
        rig = TableRig(sandbox, server.url, tmp_path)
        capture = f'[capture]\nsource = "stream"\nstreams = ["changes"]\nkey_field = "key"\nafter_ack = "{after_ack}"'
        rig.config.write_text(rig.config.read_text().replace("[capture]", capture))
        become_smallest(rig, [client])

        def write(name: str) -> None:
            client.hset(rig.key(name), "f", "v")
            client.xadd("changes", {"key": rig.key(name)})

        with rig.engine():
            write("first")
            wait_for(lambda: rig.items().keys() == {"first"}, "what an entry names")
            wait_for(lambda: client.xinfo_groups("changes")[0]["pending"] == 0, "it is acknowledged")
        write("lost")
        write("second")
        client.xtrim("changes", maxlen=1, approximate=False)
        with rig.engine():
            write("third")
            wait_for(lambda: {"second", "third"} <= rig.items().keys(), "what came meanwhile")
            if after_ack == "keep" and b"entries-added" in client.execute_command("XINFO", "STREAM", "changes"):
                wait_for(lambda: "lost" in rig.items(), "what was removed")
        assert refusals([client]) == []
