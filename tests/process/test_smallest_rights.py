"""The smallest user: the printed command makes one that is enough, and each of its rights is missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.capture.preflight import prepare_capture
from engine.config import RedisSettings, RouteSettings, Settings
from engine.errors import EngineError
from engine.redis.connection import RespConnection
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from engine.supervision.errands.rights import (
    Need,
    command_of,
    denied,
    denied_by_sentinels,
    needs,
    sentinel_command_of,
    sentinel_needs,
    situation_of,
)
from tests.cluster import cluster, sentinels
from tests.servers import every_server

TABLE = RouteTable.build([RouteSettings("all", "f", events=("*", "del", "expired"), include_expiry=True)])
PASSWORD = "PASSWORD"
REDIS_6 = (
    "Redis 6 does not count subcommands: flags that are switched off and on again within a second go unnoticed, and a "
    "repair delivers every key of its shard"
)


def settings_of(url: str, **changes: Any) -> Settings:
    return Settings(redis=RedisSettings(url=url, username="engine", password=PASSWORD, **changes))


def smallest(url: str, settings: Settings, *, has_config: bool = True) -> tuple[list[Need], str]:
    """Return what the engine needs of this server, and the command that is printed."""
    connection = RespConnection.open(RedisSettings(url=url), name="test")
    situation = situation_of(connection)
    connection.close()
    assert situation.has_config
    situation = replace(situation, has_config=has_config)
    found = needs(settings, TABLE, situation)
    return found, command_of(settings, situation, found)


def grant(client: Any, command: str) -> None:
    client.execute_command(*command.split())


def complaints(settings: Settings, rights: Sequence[Need]) -> str:
    """Return all that a start would say of what its user may not do."""
    try:
        connection = RespConnection.open(settings.redis, name="engine-rehearsal")
        try:
            found = denied(connection, "engine", rights)
        finally:
            connection.close()
        return " · ".join([*found, *prepare_capture(settings, TABLE).warnings])
    except EngineError as error:
        return str(error)


def without(command: str, right: str) -> str:
    """Return a command that takes one right away, also from Redis 6, which takes no subcommands away."""
    return f"ACL SETUSER engine reset {' '.join(word for word in command.split()[4:] if word != f'+{right}')}"


@every_server
@pytest.mark.parametrize("has_config", [True, False])
def test_each_right_is_missed(server_binary: Path, has_config: bool) -> None:
    """With the printed user nothing is missing; without any one right of it, something is said that names it."""
    flags = "" if has_config else "KA"
    with (
        ValkeyServer(binary=server_binary, config={"notify-keyspace-events": flags}) as server,
        redis.Redis(port=server.port) as client,
    ):
        url = server.url.removesuffix("/0") + "/1"
        settings = settings_of(url)
        rights, command = smallest(url, settings, has_config=has_config)
        grant(client, command)
        assert complaints(settings, rights).replace(REDIS_6, "") == ""
        for need in rights:
            client.config_set("notify-keyspace-events", flags)
            grant(client, without(command, need.right))
            # Without CONFIG, what is missed is the right to write a canary in its stead.
            missed = "subscribe" if need.right == "config|get" else need.right.partition("|")[0]
            assert missed in complaints(settings, rights).lower(), need


def test_each_right_is_missed_in_a_cluster() -> None:
    """So it is in a cluster, whose nodes are asked for each other."""
    with cluster(primaries=3) as made:
        settings = settings_of(made.url)
        rights, command = smallest(made.url, settings)
        for node in made.primaries():
            grant(node.client, command)
        assert {"cluster|info", "cluster|nodes", "cluster|slots", "asking"} <= {need.right for need in rights}
        assert complaints(settings, rights) == ""
        for need in rights:
            for node in made.primaries():
                node.client.config_set("notify-keyspace-events", "")
                grant(node.client, without(command, need.right))
            missed = "subscribe" if need.right == "config|get" else need.right.partition("|")[0]
            assert missed in complaints(settings, rights).lower(), need


def test_each_right_is_missed_of_sentinels() -> None:
    """Sentinels have users of their own; without one of its rights, something is said that names it."""
    with sentinels(replicas=0, count=1) as watched:
        grant(watched.primary().client, "ACL SETUSER engine reset on >PASSWORD ~* &* +@all")
        user = {"sentinel_username": "engine", "sentinel_password": PASSWORD}
        settings = settings_of(watched.url, read_from="replica", **user)
        rights, command = sentinel_needs(settings), sentinel_command_of(settings)
        grant(watched.guards[0].client, command)
        assert [*denied_by_sentinels(settings)] == []
        for need in rights:
            grant(watched.guards[0].client, without(command, need.right))
            assert need.right in " ".join([*denied_by_sentinels(settings), complaints(settings, [])])
        assert sentinel_needs(settings_of("redis://127.0.0.1")) == []
        assert sentinel_command_of(settings_of("redis://127.0.0.1")) == ""
