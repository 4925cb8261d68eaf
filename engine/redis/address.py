"""Where a server is, from the URL that the settings hold.  (pure)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, parse_qs, unquote

PORT, SENTINEL_PORT = 6_379, 26_379
SENTINEL = "+sentinel"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is; holds no secret.

    With a ``service``, host and port are unknown: the ``sentinels`` (host, port) are asked for its primary. ``hosts``
    are all hosts in the URL, if it names several: nodes of one cluster.
    """

    host: str
    port: int
    database: int
    tls: bool
    unix_path: str = ""
    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        several = ",".join(join(*place) for place in self.hosts)
        return self.unix_path or self.service or several or join(self.host, self.port)

    def each(self) -> list[Address]:
        """Return the address of each host that is named."""
        return [replace(self, host=host, port=port, hosts=()) for host, port in self.hosts] or [self]


def join(host: str, port: int) -> str:
    """Return host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(place: str, port: int = PORT) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port``, ``[::1]:port``, or, as servers write it, ``::1:port``."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, int(rest[1:] or port)
    host, colon, number = place.rpartition(":")
    return (host, int(number)) if colon else (place, port)


def parts_of(url: str) -> SplitResult:
    """Return the parts of a URL, whose authority may list several hosts, IPv6 addresses in brackets among them.

    `urllib.parse.urlsplit` refuses such a list, from one maintenance release of Python to the next.
    """
    scheme, _, rest = url.strip().translate({9: None, 10: None, 13: None}).partition(":")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest)
    return SplitResult(scheme.lower(), authority, slash + path, query, fragment)


def parse_url(url: str) -> Address:
    """Return the address in a ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://`` URL; raise ValueError.

    The settings are checked when they are loaded, and have taken credentials out of the URL by then.
    """
    parts = parts_of(url)
    query = parse_qs(parts.query)
    scheme = parts.scheme.removesuffix(SENTINEL)
    if scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("the scheme must be redis://, rediss:// or unix://")
    path = "" if scheme == "unix" else parts.path.strip("/")
    service = ""
    if parts.scheme.endswith(SENTINEL):
        service, _, path = path.partition("/")
    database = int(path or query.get("db", ["0"])[0])
    if database < 0:
        raise ValueError("a database is a number from 0")
    if scheme == "unix":
        return Address("", 0, database, tls=False, unix_path=unquote(parts.path))
    if service:
        sentinels = tuple(split(place, SENTINEL_PORT) for place in parts.netloc.split(","))
        return Address("", 0, database, scheme == "rediss", service=unquote(service), sentinels=sentinels)
    places = parts.netloc.rpartition("@")[2].split(",")
    if len(places) > 1:
        hosts = tuple(split(place) for place in places)
        return Address(*hosts[0], database, scheme == "rediss", hosts=hosts)
    return Address(parts.hostname or "127.0.0.1", parts.port or PORT, database, scheme == "rediss")


def with_database(url: str, database: int) -> str:
    """Return the URL, without credentials, with this database instead of its own."""
    parts = parts_of(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}" + (f"?db={database}" if database else "")
    path = f"/{database}"
    if parts.scheme.endswith(SENTINEL):
        path = f"/{parts.path.strip('/').partition('/')[0]}{path}"
    return f"{parts.scheme}://{parts.netloc}{path}"


def mapped(node_addresses: Iterable[str], place: str) -> str:
    """Return where a server that announces this ``host:port`` is reached (``redis.node_addresses``)."""
    known = dict(entry.split("=", 1) for entry in node_addresses)
    return known.get(place, place)
