"""The cache's user in the template, on a real server that is set up like the service."""

from __future__ import annotations

from pathlib import Path

import redis

from engine.routing.nodes import slots_in
from tests.cluster import cluster
from tests.deployment.documents import resource
from tests.support import ROUTE, wait_for, whole_path

HEAD = """
[redis]
url = "redis://127.0.0.1:{port}/0"
username = "engine"
password = "secret"
set_notifications = false
[capture]
shards = 1
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[delivery]
backlog_folder = "{folder}/backlog"
dead_letter_file = "{folder}/dead_letters.jsonl"
"""


def test_the_engine_s_user_may_do_what_the_engine_does(tmp_path: Path) -> None:
    """With the template's user and flags, and CONFIG refused, the engine captures, repairs, audits and delivers."""
    access = " ".join(resource("EngineUser")["AccessString"].split())
    config = {
        "user": [f"engine {access} >secret"],
        "notify-keyspace-events": resource("CacheParameters")["Properties"]["notify-keyspace-events"],
    }
    with whole_path(tmp_path, server_config=config) as path:
        client = path.client
        assert "NOPERM" in refused(path.server.port, "CONFIG", "GET", "*")
        assert "NOPERM" in refused(path.server.port, "FLUSHALL")
        route = ROUTE.replace('["*", "del", "expired"]', '["changes"]')
        path.config.write_text(HEAD.format(port=path.server.port, folder=path.folder) + route)
        path.start()
        client.hset("cart:1", "n", 1)
        client.hset("cart:2", "n", 1)
        wait_for(lambda: set(path.last()) >= {b"cart:1", b"cart:2"}, "both carts")
        client.delete("cart:2")
        wait_for(lambda: path.last().get(b"cart:2", 0) is None, "the delete")
        path.stop()
        client.hset("cart:3", "n", 1)
        path.start()
        wait_for(lambda: b"cart:3" in path.last(), "what was missed")
        assert "NOPERM" not in path.log()


def test_the_engine_s_user_in_a_cluster(tmp_path: Path) -> None:
    """The same user is enough in a cluster, on each of its nodes: for moved slots, failovers and what was missed."""
    access = " ".join(resource("EngineUser")["AccessString"].split())
    flags = {"notify-keyspace-events": resource("CacheParameters")["Properties"]["notify-keyspace-events"]}
    with (
        cluster(primaries=2, replicas=1, users=[f"engine {access} >secret"], config=flags) as made,
        whole_path(tmp_path) as path,
    ):
        client = made.client()
        url = f'url = "redis://127.0.0.1:{made.nodes[0].port}"'
        head = HEAD.format(port=0, folder=path.folder).replace('url = "redis://127.0.0.1:0/0"', url)
        path.config.write_text(head + ROUTE.replace('["*", "del", "expired"]', '["changes"]'))
        path.start()
        for number in range(50):
            client.hset(f"cart:{number}", "n", 1)
        wait_for(lambda: len(path.last()) == 50, "all carts")
        first, second = made.primaries()
        slots = slots_in(made.slots_of(first))
        made.move_slots(list(slots)[:50], first, second)
        made.failover(second, "CLUSTER FAILOVER")
        for number in range(50):
            client.hset(f"cart:{number}", "n", 2)
        wait_for(lambda: all(value == {"n": "2"} for value in path.last().values()), "all carts again")
        path.stop()
        client.hset("cart:0", "n", 3)
        path.start()
        wait_for(lambda: path.last()[b"cart:0"] == {"n": "3"}, "what was missed")
        path.stop()
        assert "NOPERM" not in path.log()


def refused(port: int, *command: str) -> str:
    try:
        redis.Redis(port=port, username="engine", password="secret").execute_command(*command)
    except redis.exceptions.NoPermissionError as error:
        return f"NOPERM {error}"
    return ""
