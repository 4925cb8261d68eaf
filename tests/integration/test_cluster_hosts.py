"""Engines on a real cluster: several that share it, one that was down meanwhile, and what they say of nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.clock import now_ms
from engine.observe.health import health_of
from engine.observe.status_view import status_view
from engine.routing.nodes import slots_in
from tests.cluster import ADMIN, SECRET, cluster, wait_until
from tests.integration.test_cluster_path import Writer, engine_on, values_of, wait_until_equal
from tests.support import PathUnderTest, wait_for, whole_path


def run(path: PathUnderTest, *arguments: str) -> Any:
    """Run a command with the engine's own configuration; return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments, "--config", str(path.config), "--json"],
        env=path.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_what_is_told_of_nodes(tmp_path: Path) -> None:
    """The check has a line a node; the status says where each is, what it has, who listens, and up to when."""
    with cluster(primaries=3) as made, engine_on(tmp_path, made, shards=2) as path:
        found = run(path, "check")["findings"]
        lines = [finding["message"] for finding in found if finding["place"] == "node"]
        assert len(lines) == 3
        for node in made.nodes:
            (line,) = [line for line in lines if line.startswith(node.id[:8])]
            assert node.address in line
            (slots,) = made.slots_of(node)
            assert f"slots {slots[0]}-{slots[1]}; shard" in line

        def nodes() -> list[dict[str, Any]]:
            return list(path.status()["nodes"])

        wait_for(lambda: all(node["settled_age_ms"] is not None for node in nodes()), "all are settled up to a moment")
        assert {(node["id"], node["address"]) for node in nodes()} == {(node.id, node.address) for node in made.nodes}
        assert sorted(shard for node in nodes() for shard in node["shards"]) in ([0, 0, 1], [0, 1, 1])
        assert sorted(node["slots"] for node in nodes()) == ["slots 0-5460", "slots 10922-16383", "slots 5461-10921"]
        status_view(path.status(), health_of(path.status(), now_ms()), now_ms())


def test_hosts_share_a_cluster_by_its_nodes(tmp_path: Path) -> None:
    """Two engines on three primaries take whole ones: each node is one engine's, and all keys arrive at one of them."""
    with cluster(primaries=3) as made:
        folders = [tmp_path / str(index) for index in range(2)]
        for folder in folders:
            folder.mkdir()
        with (
            engine_on(folders[0], made, more='slice = "0/2"') as first,
            engine_on(folders[1], made, more='slice = "1/2"') as second,
        ):
            owned = [{node["id"] for node in path.status()["nodes"]} for path in (first, second)]
            assert sorted(map(len, owned)) == [1, 2]
            assert owned[0] | owned[1] == {node.id for node in made.nodes}
            client = made.client()
            for number in range(500):
                client.hset(f"cart:{number}", "n", number)
            wanted = values_of(made)
            wait_for(lambda: {**first.last(), **second.last()} == wanted, "each key at one of them")
            assert not first.last().keys() & second.last().keys()
            for path, ids in zip((first, second), owned, strict=True):
                assert {made.owner_of(key).id for key in list(path.last())[:20]} <= ids


def test_an_engine_that_was_down_while_the_cluster_changed(tmp_path: Path) -> None:
    """Slots moved and a replica took over while no engine ran: the next start, at another node, finds it all."""
    with cluster(primaries=3, replicas=1) as made:
        with engine_on(tmp_path, made) as path, Writer(made) as writer:
            writer.wait_for_more(600)
            writer.end()
            wait_until_equal(path, made)
        first, second, _ = made.primaries()
        with Writer(made) as writer:
            writer.wait_for_more()
            made.move_slots(list(slots_in(made.slots_of(first)))[:200], first, second, "migrateslots")
            made.failover(second, "CLUSTER FAILOVER")
            made.wait_until_ok()
            writer.wait_for_more()
        with engine_on(tmp_path, made, asked=made.alive()[-1]) as path:
            assert "resumed" in path.log()
            wait_until_equal(path, made)


def test_a_node_that_is_dead_at_the_start(tmp_path: Path) -> None:
    """An engine starts though a primary is dead, and delivers what that one holds once it is back."""
    config = {"cluster-require-full-coverage": "no", "appendonly": "yes", "appendfsync": "always"}
    with cluster(primaries=3, config=config) as made:
        client = made.client()
        key = next(f"cart:{number}" for number in range(100) if made.owner_of(b"cart:%d" % number) is made.nodes[2])
        client.hset(key, "n", "before")
        dead = made.nodes[2]
        made.kill(dead)
        wait_until(lambda: "fail" in made.known()[dead.id].flags, "it is known to be dead")
        with engine_on(tmp_path, made, shards="auto") as path:
            assert "has failed" in path.log()
            living = next(f"cart:{number}" for number in range(100) if made.owner_of(b"cart:%d" % number) is not dead)
            made.owner_of(living.encode()).client.hset(living, "n", "living")
            wait_for(lambda: path.last().get(living.encode()) == {"n": "living"}, "a key of another node")
            made.restart(dead)
            made.wait_until_ok()
            wait_for(lambda: dead.id in {node["id"] for node in path.status()["nodes"]}, "it is listened to")
            dead.client.hset(key, "n", "after")
            wait_for(lambda: path.last().get(key.encode()) == {"n": "after"}, "its key")


def test_a_cluster_with_tls_and_users(tmp_path: Path) -> None:
    """Nodes that speak TLS alone, want a certificate and a password, are captured and read; also after a failover."""
    with cluster("redis-7.0", primaries=2, replicas=1, tls=True, users=True) as made:
        options = made.options
        redis = f"""\
username = "{ADMIN}"
password = "{SECRET}"
tls_ca_file = "{options["ssl_ca_certs"]}"
tls_cert_file = "{options["ssl_certfile"]}"
tls_key_file = "{options["ssl_keyfile"]}"
"""
        with engine_on(tmp_path, made, redis=redis) as path:
            with Writer(made) as writer:
                writer.wait_for_more(100)
                made.failover(made.primaries()[0], "CLUSTER FAILOVER")
                made.wait_until_ok()
                writer.wait_for_more(100)
            wait_until_equal(path, made)


def test_replicas_are_captured_and_read(tmp_path: Path) -> None:
    """With `read_from = "replica"` primaries hear of no subscriber; a replica that takes over is left for another."""
    with (
        cluster(primaries=2, replicas=2) as made,
        engine_on(tmp_path, made, redis='read_from = "replica"') as path,
    ):
        primaries = {node.address for node in made.primaries()}
        places = {node["reads_at"] for node in path.status()["nodes"]}
        assert len(places) == 2
        assert not places & primaries
        assert all(node.client.pubsub_numpat() == 0 for node in made.primaries())
        with Writer(made) as writer:
            writer.wait_for_more()
            made.failover(made.primaries()[0], "CLUSTER FAILOVER")
            made.wait_until_ok()
            writer.wait_for_more()
        wait_until_equal(path, made)


def test_mappings_on_every_node_take_effect(tmp_path: Path) -> None:
    """The original's mapping hashes are heard of on whichever node they are: each new one is a route at once."""
    with cluster(primaries=3) as made, whole_path(tmp_path) as path:
        path.write_config('[original]\nmapping_prefix = "__meta__"\n')
        path.config.write_text(path.config.read_text().replace(path.server.url, made.url))
        path.start()
        client = made.client()
        names = [f"__meta__{number}" for number in range(6)]
        assert len({made.owner_of(name.encode()).id for name in names}) > 1
        arn = "arn:aws:lambda:us-east-1:123456789012:function:accept"
        for number, name in enumerate(names):
            client.hset(name, mapping={"name": f"r{number}", "pattern": f"{number}:", "lambda": arn})
            wait_for(lambda name=name: name in str(path.status()["routes"]), f"{name} is a route")
        client.hset("5:x", "n", 1)
        wait_for(lambda: b"5:x" in path.last(), "a key of the newest route")
        assert path.stop() == 0
