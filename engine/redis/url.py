"""The address of a Redis server as its users write it, taken apart without ever showing a secret. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

FORMS = "redis://HOST:PORT/DATABASE, rediss://… for TLS, or unix:///PATH?db=DATABASE"
DATABASE_MAX = 2**31 - 1


class RedisUrl(NamedTuple):
    """A URL without its credentials, and the credentials."""

    bare: str
    username: str
    password: str


class BadRedisUrl(ValueError):
    """What is wrong, in words that hold nothing of the URL but what can't be secret."""


def split_url(url: str) -> RedisUrl:
    """Check a URL and take its credentials out; raise `BadRedisUrl`.

    A password with an unescaped ``/``, ``?`` or ``#`` in it ends up where a port, a path or a query should
    be. So no part of the URL is repeated in a message.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadRedisUrl("is no URL") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise BadRedisUrl("has no scheme that we know")
    _check_tail(parts.scheme, parts.path, parts.query, parts.fragment)
    credentials, at, place = parts.netloc.rpartition("@")
    if parts.scheme == "unix" and place:
        raise BadRedisUrl("names a host; the path of a socket follows three slashes")
    if parts.scheme != "unix":
        _check_port(place)
    username, _, password = credentials.partition(":")
    if at and not password:
        # redis-py and others read "redis://secret@host" as a user without a password; it is mostly a
        # password without a user, so we guess neither.
        raise BadRedisUrl("has an @ but no password: write redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST")
    bare = f"{parts.scheme}://{place}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    return RedisUrl(bare, unquote(username), unquote(password))


def _check_port(place: str) -> None:
    host, colon, port = place.rpartition(":")
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or not host or (rest and not rest.startswith(":")):
            raise BadRedisUrl("has no right IPv6 address: [::1]:6379")
        colon, port = rest[:1], rest[1:]
    elif ":" in host:
        raise BadRedisUrl("has no right host and port")
    if colon and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise BadRedisUrl("has no right port: a number from 1 to 65535")


def _check_tail(scheme: str, path: str, query: str, fragment: str) -> None:
    database = dict(parse_qsl(query, keep_blank_values=True))
    if fragment or set(database) - {"db"}:
        raise BadRedisUrl("has more after its path than ?db=DATABASE")
    if scheme == "unix":
        if not path.strip("/"):
            raise BadRedisUrl("has no path of a socket")
    elif path.strip("/"):
        if database:
            raise BadRedisUrl("names a database twice")
        database = {"db": path.strip("/")}
    for number in database.values():
        if not (number.isascii() and number.isdigit() and int(number) <= DATABASE_MAX):
            raise BadRedisUrl("has no right database: a number from 0")
