"""A primary with replicas that Sentinels watch."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from redis.sentinel import Sentinel

from engine.sandbox import ports
from engine.sandbox.valkey import Config, ValkeyServer
from tests.cluster.nodes import Node, wait_until
from tests.cluster.tls import tls_config, tls_options
from tests.servers import chosen
from tests.tls_proxy import Certificates, make_certificates

SERVICE = "carts"
DOWN_AFTER_MS = 1_000


class Watched:
    """Made by `sentinels`: ``nodes`` are the servers, the first primary first; ``guards`` are the Sentinels."""

    def __init__(
        self, binary: Path, config: Mapping[str, str], folder: Path, certificates: Certificates | None = None
    ) -> None:
        self.nodes: list[Node] = []
        self.guards: list[Node] = []
        self.options = tls_options(certificates) if certificates is not None else {}
        """How clients connect, to Sentinels too."""
        self._tls = tls_config(certificates) if certificates is not None else {}
        self._binary, self._config = binary, config
        # A server is a Sentinel by the name that it is started by.
        self._sentinel = folder / "valkey-sentinel" / "redis-sentinel"
        self._sentinel.parent.mkdir()
        self._sentinel.symlink_to(binary)

    @property
    def url(self) -> str:
        """Return the engine's URL of the service."""
        hosts = ",".join(f"{ports.HOST}:{guard.port}" for guard in self.guards)
        return f"{'rediss' if self._tls else 'redis'}+sentinel://{hosts}/{SERVICE}/0"

    def client(self) -> Any:
        """Return redis-py's client, which asks the Sentinels for the primary."""
        options = {"socket_timeout": 5, **self.options}
        places = [(ports.HOST, guard.port) for guard in self.guards]
        return Sentinel(places, sentinel_kwargs=options).master_for(SERVICE, **options)

    def primary(self) -> Node:
        """Return the server that the Sentinels take for the primary; without any, the one that is."""
        return wait_until(self._agreed, "the Sentinels agree")

    def replicas(self) -> list[Node]:
        """Return the servers that run, and are replicas."""
        return [node for node in self.nodes if node.is_alive and _role(node) == "slave"]

    def failover(self, how: Literal["kill", "stop", "SENTINEL FAILOVER", "FAILOVER"] = "kill") -> Node:
        """Have a replica become the primary; return it when the Sentinels say so. The old one stays away, or follows.

        ``FAILOVER`` asks the server itself; a Sentinel that watches would undo it, so there must be none.
        """
        before = self.primary()
        match how:
            case "kill":
                before.kill()
            case "stop":
                before.stop()
            case "SENTINEL FAILOVER":
                wait_until(lambda: self.guards[0].call("SENTINEL", "FAILOVER", SERVICE), "the Sentinels take the order")
            case "FAILOVER":
                assert not self.guards, "Sentinels undo what a server does by itself"
                before.call("FAILOVER")
        wait_until(lambda: self._agreed() not in (None, before), "the Sentinels name a new primary")
        after = self.primary()
        wait_until(lambda: _role(after) == "master", "it is the primary")
        return after

    def restart(self, node: Node) -> None:
        """Start a server again that was ended; the Sentinels make it a replica."""
        node.server.start()

    def wait_until_replicated(self) -> None:
        """Return when all replicas have what the primary has."""
        primary = self.primary()

        def is_level() -> bool:
            said = primary.client.info("replication")
            states = [said[f"slave{number}"] for number in range(said["connected_slaves"])]
            return len(states) >= len(self.replicas()) and all(
                state["offset"] >= said["master_repl_offset"] for state in states
            )

        wait_until(is_level, "the replicas have everything")

    def wait_until_ok(self) -> None:
        """Return when the Sentinels agree, and all servers that run follow the primary."""
        wait_until(self._is_ok, "Sentinels and servers are well")

    def _watching(self) -> list[Node]:
        return [guard for guard in self.guards if guard.is_alive]

    def _agreed(self) -> Node | None:
        if not self.guards:
            return next((node for node in self.nodes if node.is_alive and _role(node) == "master"), None)
        named = {int(guard.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for guard in self._watching()}
        return next((node for node in self.nodes if {node.port} == named), None)

    def _is_ok(self) -> bool:
        primary = self._agreed()
        running = [node for node in self.nodes if node.is_alive]
        if primary is None or _role(primary) != "master":
            return False
        for node in running:
            said = node.client.info("replication")
            if node is not primary and (said.get("master_port"), said.get("master_link_status")) != (
                primary.port,
                "up",
            ):
                return False
        states = [guard.client.sentinel_master(SERVICE) for guard in self._watching()]
        return all(
            int(state["num-slaves"]) >= len(running) - 1 and int(state["num-other-sentinels"]) == len(self.guards) - 1
            for state in states
        )

    # Its life

    def create(self, replicas: int, count: int) -> None:
        """Start all, and return when the Sentinels know everybody."""
        for number in range(1 + replicas):
            ours = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
            if number:
                ours["replicaof"] = f"{ports.HOST} {self.nodes[0].port}"
            self.nodes.append(self._started(self._binary, {**ours, **self._config}))
        watch = [
            f"monitor {SERVICE} {ports.HOST} {self.nodes[0].port} {count // 2 + 1}",
            f"down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"failover-timeout {SERVICE} 6000",
        ]
        for _ in range(count):
            self.guards.append(self._started(self._sentinel, {"sentinel": watch}))
        self.wait_until_ok()

    def _started(self, binary: Path, config: Config) -> Node:
        if not self._tls:
            return Node(ValkeyServer(binary=binary, config=config).start(), {})
        port = ports.free_port("a server of the test")
        config = {**config, **self._tls, "port": "0", "tls-port": str(port)}
        return Node(ValkeyServer(port, binary=binary, config=config).start(), self.options)

    def close(self) -> None:
        """End all that was started."""
        for node in (*self.guards, *self.nodes):
            node.close()


@contextmanager
def sentinels(
    server: str = "valkey-9.1",
    *,
    count: int = 3,
    replicas: int = 2,
    tls: bool = False,
    config: Mapping[str, str] | None = None,
) -> Iterator[Watched]:
    """Yield a primary and its replicas, watched by Sentinels that know each other; ``config`` is of the servers.

    With ``count`` 0 nobody watches: a primary with replicas. ``tls`` (Debian's Redis alone has it): no port is plain,
    and clients need a certificate; `Watched.options` has what they need.
    """
    known = chosen()
    if server not in known:
        pytest.skip(f"{server} is not here: `make servers`")
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        certificates = make_certificates(Path(folder)) if tls else None
        made = Watched(known[server], config or {}, Path(folder), certificates)
        with contextlib.closing(made):
            made.create(replicas, count)
            yield made


def _role(node: Node) -> str:
    return str(node.client.info("replication")["role"])
