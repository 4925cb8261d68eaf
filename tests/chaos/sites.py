"""What an engine captures: one server, a cluster, or servers that Sentinels watch; how writer and oracle reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.crc import key_slot

from engine.routing.nodes import SLOTS
from engine.sandbox.valkey import ValkeyServer
from tests.chaos.links import STREAM, ClusterLink, DatabasesLink, Link, OneLink, StreamLink, connect
from tests.chaos.oracle import Truth, may_look_unnoticed, read_all
from tests.chaos.registry import ENGINE_SECRET, Fault
from tests.cluster import Cluster, Watched, cluster, sentinels
from tests.servers import chosen, chosen_binary

ANSWER_S_MAX = 10.0


class Site(Protocol):
    """Servers that are started once, and end with the run."""

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start them without waiting for more than must be; they are ended with the stack."""

    def wait_ready(self) -> None:
        """Return when they answer."""

    def url(self) -> str:
        """Return what engines are told; the passwords are in it."""

    def access(self, folder: Path) -> Mapping[str, Any]:
        """Return what else of ``[redis]`` an engine needs to get in; files for it are put into this folder."""

    def link(self) -> Link:
        """Return the writer's way to them."""

    def truth(self) -> dict[bytes, Truth]:
        """Return all that they hold."""

    def may_look_unnoticed(self) -> bool:
        """Tell whether reading changes nothing that the engine could see."""


class OneServer:
    """One server, or one that has taken its place: ``port`` may be set."""

    def __init__(self, server: ValkeyServer, *, streams: bool = False) -> None:
        self.server = server
        self._streams = streams
        self.port = 0

    def start(self, stack: contextlib.ExitStack) -> None:
        stack.callback(self.server.close)
        self.server.launch()

    def wait_ready(self) -> None:
        self.server.wait_ready()
        self.port = self.server.port

    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def access(self, folder: Path) -> Mapping[str, Any]:
        return {}

    def link(self) -> Link:
        return StreamLink(self.port) if self._streams else OneLink(self.port)

    def truth(self) -> dict[bytes, Truth]:
        found = _read(self.port)
        return _without_streams(found) if self._streams else found

    def may_look_unnoticed(self) -> bool:
        return _may_look(self.port)


class DatabasesSite(OneServer):
    """Several databases of one server."""

    def __init__(self, server: ValkeyServer, databases: Sequence[int]) -> None:
        super().__init__(server)
        self._databases = databases

    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def access(self, folder: Path) -> Mapping[str, Any]:
        return {"databases": list(self._databases)}

    def link(self) -> Link:
        return DatabasesLink(self.port)

    def truth(self) -> dict[bytes, Truth]:
        return {
            b"%d:%b" % (database, key): value
            for database in self._databases
            for key, value in _read(self.port, {"db": database}).items()
        }


class ClusterSite:
    """A cluster; its first node is the one that engines are told of, so faults leave that one alive."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.cluster: Cluster

    def start(self, stack: contextlib.ExitStack) -> None:
        fault = self._fault
        self.cluster = stack.enter_context(
            cluster(
                next(iter(chosen())),
                primaries=fault.primaries,
                replicas=fault.replicas,
                tls=fault.tls,
                users=fault.users or False,
                config=fault.server_config,
                proxied=fault.partitions,
            )
        )

    def wait_ready(self) -> None:
        self.cluster.wait_until_ok()

    def url(self) -> str:
        scheme = "rediss" if self._fault.tls else "redis"
        return f"{scheme}://{self.cluster.nodes[0].address}"

    def access(self, folder: Path) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        if self._fault.users:
            secret = folder / "secret"
            secret.write_text(f"{ENGINE_SECRET}\n")
            found |= {"username": "engine", "password_file": str(secret)}
        if self._fault.tls:
            options = self.cluster.options
            found |= {"tls_ca_file": options["ssl_ca_certs"]}
            found |= {"tls_cert_file": options["ssl_certfile"], "tls_key_file": options["ssl_keyfile"]}
        return found

    def link(self) -> Link:
        made = self.cluster
        return ClusterLink(
            lambda: [node.announced_port for node in made.alive()], made.options, streams=self._fault.streams
        )

    def truth(self) -> dict[bytes, Truth]:
        """Return what each primary holds of its own slots; raises while somebody has another view of the slots."""
        made = self.cluster
        if not made.is_ok():
            raise redis.ConnectionError("the cluster is not well")
        found: dict[bytes, Truth] = {}
        for node in made.primaries():
            slots = {slot for first, last in made.slots_of(node) for slot in range(first, last + 1)}
            found |= _read(node.port, made.options, slots)
        return _without_streams(found) if self._fault.streams else found

    def may_look_unnoticed(self) -> bool:
        return _may_look(self.cluster.alive()[0].port, self.cluster.options)


class SentinelSite:
    """A primary and its replicas, and the Sentinels that name it."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.watched: Watched

    def start(self, stack: contextlib.ExitStack) -> None:
        config = {name: value for name, value in self._fault.server_config.items() if isinstance(value, str)}
        self.watched = stack.enter_context(sentinels(next(iter(chosen())), config=config))

    def wait_ready(self) -> None:
        self.watched.wait_until_ok()

    def url(self) -> str:
        return self.watched.url

    def access(self, folder: Path) -> Mapping[str, Any]:
        return {}

    def link(self) -> Link:
        port = self.watched.primary().port
        return StreamLink(port) if self._fault.streams else OneLink(port)

    def truth(self) -> dict[bytes, Truth]:
        found = _read(self.watched.primary().port)
        return _without_streams(found) if self._fault.streams else found

    def may_look_unnoticed(self) -> bool:
        return _may_look(self.watched.primary().port)


def site_of(fault: Fault) -> OneServer | ClusterSite | SentinelSite:
    """Return what this fault strikes; it is not started."""
    match fault.stage:
        case "cluster":
            return ClusterSite(fault)
        case "sentinel":
            return SentinelSite(fault)
    server = ValkeyServer(binary=chosen_binary(), config=fault.server_config)
    if fault.databases:
        return DatabasesSite(server, fault.databases)
    return OneServer(server, streams=fault.streams)


def _without_streams(found: Mapping[bytes, Truth]) -> dict[bytes, Truth]:
    """Leave out what is nobody's data: the engine reads it, and does not deliver it."""
    return {key: value for key, value in found.items() if not key.startswith(STREAM)}


def _read(
    port: int, options: Mapping[str, Any] | None = None, slots: Container[int] = range(SLOTS)
) -> dict[bytes, Truth]:
    connection = connect(port, ANSWER_S_MAX, options or {})
    try:
        return read_all(connection, lambda key: key_slot(key) in slots)
    finally:
        connection.disconnect()


def _may_look(port: int, options: Mapping[str, Any] | None = None) -> bool:
    connection = connect(port, ANSWER_S_MAX, options or {})
    try:
        return may_look_unnoticed(connection)
    finally:
        connection.disconnect()
