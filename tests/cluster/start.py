"""How a node of a cluster is started: its ports, and what its configuration adds to that of all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.sandbox import ports
from engine.sandbox.errors import PortInUse
from engine.sandbox.valkey import ValkeyServer
from tests.cluster.net import Net
from tests.cluster.nodes import Node

Config = Mapping[str, str | Sequence[str]]

_BUS_OFFSET = 10_000
"""Redis before 7 has its bus on the port and this."""
_ATTEMPTS = 10
_PART = "a node of the test's cluster"


@dataclass(frozen=True)
class StartNode:
    """Starts nodes of one cluster, each by a call with what its own configuration adds."""

    binary: Path
    config: Config
    options: Mapping[str, Any]
    """How clients connect."""
    is_old: bool
    """Redis before 7: its bus has no port of its own choice, and slots are assigned one by one."""
    net: Net | None

    def __call__(self, config: Config) -> Node:
        for attempt in itertools.count(1):
            port, bus_port = self._free_ports()
            announced = (0, 0) if self.net is None else (self.net.door(port), self.net.door(bus_port))
            server = ValkeyServer(
                port, binary=self.binary, config={**self.config, **self._own(port, bus_port, announced), **config}
            )
            try:
                return Node(server.start(), self.options, bus_port=bus_port, announced=announced)
            except PortInUse:
                server.close()
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    def _own(self, port: int, bus_port: int, announced: tuple[int, int]) -> dict[str, str]:
        ours = {"cluster-port": str(bus_port)} if not self.is_old else {}
        if self.net is not None:
            ours |= {"cluster-announce-port": str(announced[0]), "cluster-announce-bus-port": str(announced[1])}
            ours |= {"bind-source-addr": self.net.source_of(port, bus_port)}
        if "ssl" in self.options:
            ours |= {"port": "0", "tls-port": str(port)}
        return ours

    def _free_ports(self) -> tuple[int, int]:
        while True:
            port = ports.free_port(_PART)
            if not self.is_old:
                return port, ports.free_port(_PART)
            if port + _BUS_OFFSET in ports.FREE_PORTS:
                return port, port + _BUS_OFFSET
