"""Several databases on real servers: what is refused before the start, in one line with its remedy, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from msgspec.structs import replace

from engine.capture.node_look import NodeLook
from engine.capture.watch.keepsake import Keepsakes
from engine.config import RedisSettings
from engine.errors import RedisRefused
from engine.redis.connection import RespConnection
from engine.redis.databases import with_numbers
from engine.routing.databases import Databases
from engine.routing.nodes import Node
from engine.sandbox.valkey import ValkeyServer
from tests.cluster import cluster


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(config={"databases": "20"}) as one:
        yield one


def settings(server: ValkeyServer, databases: object, user: str = "", *rights: str) -> RedisSettings:
    if user:
        with redis.Redis(port=server.port) as client:
            client.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", *rights)
    password = "pw" if user else ""
    return RedisSettings(server.url, databases, user, password=password)  # type: ignore[arg-type]


def test_all_are_those_that_the_server_has(server: ValkeyServer) -> None:
    """They are what its setting says, and, where CONFIG is refused, those that can be selected."""
    assert with_numbers(settings(server, "*")).databases == tuple(range(20))
    assert with_numbers(settings(server, "*", "unconfigured", "-config")).databases == tuple(range(20))
    assert with_numbers(settings(server, (0, 3))).databases == (0, 3)


def test_one_of_all_is_the_urls() -> None:
    """A server that has one database alone is captured as ever."""
    with ValkeyServer(config={"databases": "1"}) as alone:
        found = with_numbers(settings(alone, "*"))
        assert (found.databases, found.url) == ("", alone.url)


def test_more_than_there_may_be() -> None:
    """A server that has thousands is refused before anything is subscribed to."""
    with ValkeyServer(config={"databases": "1000"}) as large:
        with pytest.raises(RedisRefused, match="more than 256 databases") as caught:
            with_numbers(settings(large, "*"))
        assert "name those that are in use" in caught.value.hint


def test_a_database_that_is_not_there_and_a_right_that_lacks(server: ValkeyServer) -> None:
    """The server's refusal is told with the number, and what to do about it."""
    with pytest.raises(RedisRefused, match="select database 99") as caught:
        NodeLook.open(settings(server, (0, 99)), Node(), 10)
    assert "redis.databases" in caught.value.hint
    for databases in ((0, 3), "*"):
        with pytest.raises(RedisRefused, match="no permissions to run the 'select' command") as caught:
            made = with_numbers(settings(server, databases, "unselective", "-select", "-config"))
            NodeLook.open(made, Node(), 10)
        assert "+select" in caught.value.hint


def test_a_cluster_has_one() -> None:
    """Several databases in a cluster are refused, named or all."""
    with cluster(primaries=1, replicas=0) as made:
        for databases in ("*", (0, 1)):
            with pytest.raises(RedisRefused, match="database 0 alone") as caught:
                NodeLook.open(with_numbers(replace(RedisSettings(made.url), databases=databases)), Node(), 10)
            assert "leave redis.databases out" in caught.value.hint


def test_a_look_counts_and_samples_all(server: ValkeyServer) -> None:
    """Shards are cut by keys of all databases, and the connection is at home afterwards."""
    for number in (0, 3):
        with redis.Redis(port=server.port, db=number) as client:
            client.flushdb()
            client.mset({f"{number}:{key}": "v" for key in range(50)})
    look = NodeLook.open(settings(server, (0, 3)), Node(), 40)
    try:
        assert look.keys == 100
        assert len(look.sample) == 40
        assert {key[:1] for key in look.sample} == {b"0", b"3"}
    finally:
        look.close()


def test_keys_that_stay_in_each(server: ValkeyServer) -> None:
    """Where the server counts nothing, a flush of any of the databases shows by its key, and by no other's."""
    keepsakes = Keepsakes(b"stays", Databases((0, 3), 3))
    connection = RespConnection.open(settings(server, (0, 3)), name="test", database=3, protocol=2)

    def word() -> bytes | None:
        questions = keepsakes.questions(0)
        return keepsakes.take(connection.pipeline(b"".join(questions), len(questions)))

    try:
        before = word()
        assert before is not None and word() == before
        for number in (0, 3):
            with redis.Redis(port=server.port, db=number) as client:
                client.flushdb()
            after = word()
            assert after != before
            before = after
        connection.call("SET", "here", "v")
        with redis.Redis(port=server.port, db=3) as client:
            assert client.exists("here")
    finally:
        connection.close()
