"""The network between nodes and clients, for partitions: one loop carries the bytes of all connections.

Nodes are told apart by the address that they connect from (``bind-source-addr``); clients have none of those.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from engine.sandbox import ports
from tests.chaos.proxies.loop import Door, LoopThread
from tests.chaos.proxies.redis_proxy import ClockShift

_CHUNK = 1 << 16


class Net:
    """Doors (ports that lead to other ports). A cut connection is silent until it heals, as TCP has it."""

    def __init__(self) -> None:
        self._thread = LoopThread("net")
        self._doors: list[Door] = []
        self._servers: list[asyncio.Server] = []
        self._node_by_source: dict[str, int] = {}
        self._node_by_port: dict[int, int] = {}
        self._cut: frozenset[int] = frozenset()
        self._clients_too = self._peers_too = True
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shifts: dict[int, int] = {}

    # For other threads

    def door(self, port: int) -> int:
        """Return a port of ours that leads to this one."""
        door = Door(ports.HOST)
        self._doors.append(door)
        self._thread.await_(self._open(door, port))
        return door.port

    def source_of(self, port: int, bus_port: int) -> str:
        """Return the address from which the node on these ports is to connect."""
        source = f"127.0.0.{len(self._node_by_source) + 2}"
        self._node_by_source[source] = self._node_by_port[port] = self._node_by_port[bus_port] = port
        return source

    def isolate(self, nodes: Collection[int], *, clients: bool = True, peers: bool = True) -> None:
        """Cut the nodes on these ports off from all others, and from clients, or from either."""
        self._thread.call(self._set, frozenset(nodes), clients, peers)

    def heal(self) -> None:
        """Connect all with all again."""
        self._thread.call(self._set, frozenset(), True, True)

    def shift_clock(self, node: int, seconds: int) -> None:
        """Have the node on this port tell clients another time by so much: in replies to ``TIME``, and nowhere else."""
        self._thread.call(self._shifts.__setitem__, node, seconds)

    def close(self) -> None:
        """End everything."""
        if not self._thread.loop.is_closed():
            self._thread.call(self._shut)
            self._thread.close()
        for door in self._doors:
            door.close()

    # On the loop

    def _shut(self) -> None:
        for server in self._servers:
            server.close()

    def _set(self, cut: frozenset[int], clients: bool, peers: bool) -> None:
        self._cut, self._clients_too, self._peers_too = cut, clients, peers
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _is_cut(self, source: str, port: int) -> bool:
        """Tell whether nothing gets through now between a source and the node on this port."""
        node, other = self._node_by_port.get(port), self._node_by_source.get(source)
        if other is None:
            return node in self._cut and self._clients_too
        return self._peers_too and (node in self._cut) != (other in self._cut)

    async def _open(self, door: Door, port: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, port)

        self._servers.append(await asyncio.start_server(serve, sock=door.open()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        source = str(writer.get_extra_info("peername")[0])
        far: asyncio.StreamWriter | None = None
        try:
            await self._until_open(source, port)
            far_reader, far = await asyncio.open_connection(ports.HOST, port)
            clock = ClockShift() if source not in self._node_by_source else None
            both = [self._carry(reader, far, source, port), self._carry(far_reader, writer, source, port, clock)]
            tasks = [asyncio.ensure_future(one) for one in both]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
        except OSError:
            pass
        finally:
            for one in (writer, far):
                if one is not None:
                    one.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: str,
        port: int,
        clock: ClockShift | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._until_open(source, port)
                if clock is not None:
                    data = clock.rewrite(data, self._shifts.get(port, 0))
                writer.write(data)
                await writer.drain()

    async def _until_open(self, source: str, port: int) -> None:
        while self._is_cut(source, port):
            await self._changed.wait()
