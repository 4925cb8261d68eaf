from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hiredis
import pytest

from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.redis.address import Address, join, mapped, parse_url, split
from engine.redis.sentinel import Ask, Named, at, primaries, replicas
from engine.redis.url import split_url
from engine.redis.url_options import BadRedisUrl

URL = "redis+sentinel://a:1,b:2,c:3/carts/2"


def asking(answers: Mapping[str, Sequence[Any] | RedisError], asked: list[str] | None = None) -> Ask:
    """Return Sentinels that answer as told, by host."""

    def ask(sentinel: Address, questions: Sequence[tuple[str, ...]]) -> list[Any]:
        if asked is not None:
            asked.append(sentinel.host)
        answer = answers[sentinel.host]
        if isinstance(answer, RedisError):
            raise answer
        return list(answer)

    return ask


def named(place: str, epoch: int = 0) -> list[Any]:
    host, _, port = place.rpartition(":")
    return [[host.encode(), port.encode()], [b"name", b"carts", b"config-epoch", b"%d" % epoch]]


DOWN = RedisUnreachable("x did not answer")


@pytest.mark.parametrize(
    ("url", "bare", "address"),
    [
        (URL, URL, Address("", 0, 2, tls=False, service="carts", sentinels=(("a", 1), ("b", 2), ("c", 3)))),
        (
            "valkey+sentinel://u:p%40w@a/my-service",
            "redis+sentinel://a/my-service",
            Address("", 0, 0, tls=False, service="my-service", sentinels=(("a", 26_379),)),
        ),
        (
            "rediss+sentinel://[::1]:7,b/carts/0",
            "rediss+sentinel://[::1]:7,b/carts/0",
            Address("", 0, 0, tls=True, service="carts", sentinels=(("::1", 7), ("b", 26_379))),
        ),
        (
            "redis+sentinel://a/carts?db=4",
            "redis+sentinel://a/carts?db=4",
            Address("", 0, 4, tls=False, service="carts", sentinels=(("a", 26_379),)),
        ),
    ],
)
def test_urls(url: str, bare: str, address: Address) -> None:
    """A URL that names Sentinels is taken apart into them, the service and the database; credentials are taken out."""
    split_up = split_url(url)
    assert split_up.bare == bare
    assert parse_url(split_up.bare) == address
    assert str(address) == address.service


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+sentinel://:hunter2@a:1,b:2", "names Sentinels without a service: redis"),
        ("redis+sentinel://:hunter2@a:1,b:2/", "names Sentinels without a service"),
        ("redis+sentinel://:hunter2@a:1,b:2/0", "names Sentinels without a service"),
        ("redis+sentinel://:hunter2@a:1,,b:2/carts", "has an invalid list of Sentinels"),
        ("redis+sentinel://:hunter2@a:1,b:x/carts", "has an invalid port"),
        ("redis+sentinel://:hunter2@a:1/carts/zero", "has an invalid database"),
        ("redis+sentinel://:hunter2@a:1/carts/1?db=2", "names a database twice"),
    ],
)
def test_wrong_urls(url: str, words: str) -> None:
    """What is wrong with a URL that names Sentinels is said, without its secrets."""
    with pytest.raises(BadRedisUrl, match=words) as caught:
        split_url(url)
    assert "hunter2" not in str(caught.value)


def test_each_in_turn() -> None:
    """Sentinels that do not answer are passed over; who answered is asked first the next time."""
    address, asked = parse_url(URL), []
    answers = {"a": DOWN, "b": named("10.0.0.1:6379", 7), "c": named("10.0.0.2:6379", 8)}
    assert next(primaries(address, asking(answers, asked))) == Named("10.0.0.1:6379", 7)
    assert asked == ["a", "b"]
    asked.clear()
    told = list(primaries(address, asking(answers, asked)))
    assert told == [Named("10.0.0.1:6379", 7), Named("10.0.0.2:6379", 8)]
    assert asked == ["b", "a", "c"]


def test_nobody_knows() -> None:
    """A service that no Sentinel knows is the user's to mend; that none answers may pass."""
    address = parse_url("redis+sentinel://a,b/typo")
    unknown = [None, hiredis.ReplyError("ERR No such master with that name")]
    with pytest.raises(RedisRefused, match=r"a:26379 knows no service 'typo' \(redis.url names it after"):
        list(primaries(address, asking({"a": unknown, "b": unknown})))
    with pytest.raises(RedisUnreachable, match=r"no Sentinel knows 'typo': .*did not answer"):
        list(primaries(address, asking({"a": unknown, "b": DOWN})))


def test_refusals() -> None:
    """A server that is not a Sentinel, and one that wants a password, are told with their remedies."""
    address = parse_url("redis+sentinel://a/carts")
    no_sentinel = hiredis.ReplyError("ERR unknown command 'SENTINEL'")
    with pytest.raises(RedisRefused, match="a:26379 is not a Sentinel"):
        list(primaries(address, asking({"a": [no_sentinel, no_sentinel]})))
    no_right = hiredis.ReplyError(
        "NOPERM User x has no permissions to run the 'sentinel|get-master-addr-by-name' command"
    )
    with pytest.raises(RedisRefused, match=r"name the primary.*\+sentinel\|get-master-addr-by-name"):
        list(primaries(address, asking({"a": [no_right, no_right]})))


def test_epoch_is_not_needed() -> None:
    """A user who may not ask for more than the address is told the primary all the same."""
    denied = hiredis.ReplyError("NOPERM")
    address = parse_url("redis+sentinel://a/carts")
    assert list(primaries(address, asking({"a": [[b"::1", b"6379"], denied]}))) == [Named("[::1]:6379", 0)]


def test_replicas() -> None:
    """Of a service's replicas those are told that their Sentinel has not found down."""

    def replica(ip: str, flags: str) -> list[bytes]:
        return [word.encode() for word in ("ip", ip, "port", "6379", "flags", flags)]

    told = [replica("c", "slave"), replica("d", "slave,s_down"), replica("b", "slave,disconnected")]
    address = parse_url("redis+sentinel://x,y/carts")
    answers = {"x": DOWN, "y": [[*told, replica("a", "slave")]]}
    assert replicas(address, asking(answers)) == ["a:6379", "c:6379"]


@pytest.mark.parametrize(
    ("place", "parts"),
    [("a:1", ("a", 1)), ("a", ("a", 6379)), ("[::1]:2", ("::1", 2)), ("[::1]", ("::1", 6379)), ("::1:2", ("::1", 2))],
)
def test_places(place: str, parts: tuple[str, int]) -> None:
    """Addresses are read as users and as servers write them."""
    assert split(place) == parts
    assert split(join(*parts)) == parts


def test_mapped() -> None:
    """A server that announces an address of its own network is reached where the settings say."""
    pairs = ("10.0.0.1:6379=cache-1:7001", "10.0.0.2:6379=cache-2:7002")
    assert mapped(pairs, "10.0.0.2:6379") == "cache-2:7002"
    assert mapped(pairs, "10.0.0.3:6379") == "10.0.0.3:6379"
    assert at(parse_url("rediss+sentinel://a/carts/3"), "b:7") == Address("b", 7, 3, tls=True)
