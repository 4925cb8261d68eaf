"""The address of a Redis server as its users write it, taken apart without ever showing a secret. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from engine.redis.address import SENTINEL, parts_of
from engine.redis.url_options import BadRedisUrl, settings_in

FORMS = (
    "redis://HOST:PORT/DATABASE (nodes of a cluster: redis://HOST:PORT,HOST:PORT), rediss://… for TLS (or valkey://, "
    "valkeys://), unix:///PATH?db=DATABASE, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE"
)
DATABASE_MAX = 2**31 - 1

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_SCHEMES |= {f"{scheme}{SENTINEL}": f"{ours}{SENTINEL}" for scheme, ours in _SCHEMES.items()} | {"unix": "unix"}


class RedisUrl(NamedTuple):
    """A URL without its credentials and options, the credentials, and the settings that its options stand for."""

    bare: str
    username: str
    password: str
    settings: Mapping[str, Any] = {}


def split_url(url: str) -> RedisUrl:
    """Check a URL and take its credentials out; raise `BadRedisUrl`.

    A password with an unescaped ``/``, ``?`` or ``#`` in it ends up where a port, a path or a query should be. So no
    part of the URL is repeated in a message.
    """
    parts = parts_of(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise BadRedisUrl("has an unknown scheme")
    query = parse_qsl(parts.query, keep_blank_values=True)
    settings = settings_in(query)
    path = _after_the_service(parts.path) if scheme.endswith(SENTINEL) else parts.path
    database = _check_tail(scheme, path, query, parts.fragment)
    credentials, at, place = parts.netloc.rpartition("@")
    if scheme == "unix" and place:
        raise BadRedisUrl("names a host; the path of a socket follows three slashes")
    if scheme.endswith(SENTINEL):
        _check_list(place, "Sentinels")
    elif "," in place:
        _check_list(place, "hosts")
    elif scheme != "unix":
        _check_port(place)
    username, _, password = credentials.partition(":")
    if at and not password:
        # redis-py and others read "redis://secret@host" as a user without a password; it is mostly a
        # password without a user, so we guess neither.
        raise BadRedisUrl("has an @ but no password: write redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST")
    bare = f"{scheme}://{place}{parts.path}" + (f"?db={database}" if database else "")
    username, password = unquote(username), unquote(password)
    if password and "password" in settings:
        raise BadRedisUrl("gives a password twice")
    # As in redis-py: the part before the @ counts.
    username, password = username or settings.pop("username", ""), password or settings.pop("password", "")
    settings.pop("username", None)
    return RedisUrl(bare, username, password, settings)


def _after_the_service(path: str) -> str:
    """Return the rest of a path that begins with the name of a service."""
    service, _, rest = path.strip("/").partition("/")
    if not service or (not rest and service.isdigit()):
        # A number is a database: the service was left out.
        raise BadRedisUrl("names Sentinels without a service: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    return rest


def _check_list(places: str, what: str) -> None:
    for place in places.split(","):
        if not place.partition(":")[0]:
            raise BadRedisUrl(f"has an invalid list of {what}: HOST:PORT,HOST:PORT")
        _check_port(place)


def _check_port(place: str) -> None:
    host, colon, port = place.rpartition(":")
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or not host or (rest and not rest.startswith(":")):
            raise BadRedisUrl("has an invalid IPv6 address: [::1]:6379")
        colon, port = rest[:1], rest[1:]
    elif ":" in host:
        raise BadRedisUrl("has an invalid host or port")
    if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise BadRedisUrl("has an invalid port: a number from 1 to 65535")


def _check_tail(scheme: str, path: str, query: list[tuple[str, str]], fragment: str) -> str:
    """Return the database that the query names, "" if it names none."""
    if fragment:
        raise BadRedisUrl("has a # in it: in a password that is %23")
    named = [value for name, value in query if name == "db"]
    if len(named) > 1:
        raise BadRedisUrl("names a database twice")
    if scheme == "unix":
        if not path.strip("/"):
            raise BadRedisUrl("has no socket path")
    elif path.strip("/"):
        if named:
            raise BadRedisUrl("names a database twice")
        named = [path.strip("/")]
    for number in named:
        if not (number.isascii() and number.isdigit() and int(number) <= DATABASE_MAX):
            raise BadRedisUrl("has an invalid database: a number from 0")
    return next((value for name, value in query if name == "db"), "")
