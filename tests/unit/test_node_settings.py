from __future__ import annotations

import pytest

from engine.config import RedisSettings
from engine.redis.address import parse_url
from engine.redis.connection import RespConnection
from engine.redis.node import each_host, settings_for
from engine.routing.nodes import Node
from tests.servers import server_of

NAMED = RedisSettings(url="rediss://seed:6379/3", username="u", password="p", tls_ca_file="ca.pem")


@pytest.mark.parametrize(
    ("url", "node", "reached"),
    [
        ("redis://seed:6379", Node(), "redis://seed:6379"),
        ("redis://seed:6379", Node(address="10.0.0.1:7000"), "redis://10.0.0.1:7000"),
        ("rediss://seed:6379/3", Node(address="a.cache:7000"), "rediss://a.cache:7000/3"),
        ("redis://seed:6379", Node(address="::1:7000"), "redis://[::1]:7000"),
        ("redis://seed:6379", Node(address="[::1]:7000"), "redis://[::1]:7000"),
        ("redis://seed:6379", Node(address="a:1", reads_at="b:2"), "redis://b:2"),
        ("redis://seed:6379", Node(reads_at="b:2"), "redis://b:2"),
        ("unix:///run/s?db=2", Node(address="a:1"), "redis://a:1/2"),
    ],
)
def test_where(url: str, node: Node, reached: str) -> None:
    """A node is reached at its own address, or its replica's, as the named server is: same TLS, same database."""
    assert settings_for(RedisSettings(url=url), node).url == reached


def test_several_hosts() -> None:
    """Each host that a URL names is reached by itself, as all are: same TLS, same database."""
    redis = RedisSettings(url="rediss://seed.test:7000,b,10.0.0.1:7/0")
    address = parse_url(redis.url)
    assert address.hosts == (("seed.test", 7000), ("b", 6379), ("10.0.0.1", 7))
    assert str(address) == "seed.test:7000,b:6379,10.0.0.1:7"
    reached = ["rediss://seed.test:7000", "rediss://b:6379", "rediss://10.0.0.1:7"]
    assert [one.url for one in each_host(redis)] == reached
    assert [one.tls_server_name for one in each_host(redis)] == ["", "", "seed.test"]
    assert each_host(NAMED) == [NAMED]


def test_all_else_stays() -> None:
    """User, password and certificates are the named server's."""
    reached = settings_for(NAMED, Node(address="a:1"))
    assert (reached.username, reached.password, reached.tls_ca_file) == ("u", "p", "ca.pem")


def test_replica_of_a_cluster() -> None:
    """A connection that is to read a cluster's replica says so."""
    with server_of("valkey-9.1", {"cluster-enabled": "yes"}) as clustered:
        connection = RespConnection.open(RedisSettings(url=clustered.url), name="test", readonly=True)
        assert b" flags=r" in connection.call("CLIENT", "INFO")
        connection.close()


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("rediss://cache.test:6379", "10.0.0.1:6379", "cache.test"),
        ("rediss://cache.test:6379", "node-1.test:6379", ""),
        ("rediss://10.0.0.9:6379", "10.0.0.1:6379", ""),
        ("redis://cache.test:6379", "10.0.0.1:6379", ""),
        ("rediss+sentinel://guard.test/carts", "10.0.0.1:6379", ""),
    ],
)
def test_name_in_certificates(url: str, address: str, name: str) -> None:
    """A server that is told by its IP address alone has to have a certificate for the name that it was found by."""
    assert settings_for(RedisSettings(url=url), Node(reads_at=address)).tls_server_name == name
    named = RedisSettings(url=url, tls_server_name="other.test")
    assert settings_for(named, Node(reads_at=address)).tls_server_name == "other.test"
