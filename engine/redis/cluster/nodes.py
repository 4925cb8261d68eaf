"""Connections to all nodes of a server, for commands off the hot path: each goes to the node that has its key.

Slots that move and nodes that take another's place are followed: ``MOVED``, ``ASK``, ``TRYAGAIN``, ``CLUSTERDOWN``, and
connections that break, for as long as a failover may take. A server without cluster mode is one node, whose failures
are raised at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import hiredis
from msgspec.structs import replace

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.errors import RedisError, RedisUnreachable
from engine.redis.address import mapped, split
from engine.redis.cluster.redirects import ASKING, Redirect, redirect_of
from engine.redis.connection import RespConnection, pack
from engine.redis.databases import in_a_cluster
from engine.redis.errors import passes, refusal
from engine.redis.node import settings_at
from engine.redis.topology import ask_topology
from engine.routing.assignment import nodes_of_slice, takes_whole_nodes
from engine.routing.databases import databases_of
from engine.routing.nodes import Node, Topology, slot_of
from engine.routing.slices import Slice

TROUBLE_MS_MAX = 30_000
"""How long a cluster may leave a key without an owner that answers."""
_AGAIN_S = 0.2
_REDIRECTS_MAX = 3
"""A question is redirected at most this often without a wait."""

Keyed = tuple[bytes, bytes]
"""A key, and a packed command that concerns it alone."""


class Nodes:
    """All connections, made as they are needed. Not thread-safe; raises `RedisError`.

    ``known`` are the nodes that an engine listens to: one of them answers if ``redis.url`` does not. If the engine
    reads replicas, so do we, because it hears what is published there.
    """

    def __init__(
        self,
        redis: RedisSettings,
        name: str,
        *,
        database: int | None = None,
        known: Topology | None = None,
    ) -> None:
        self._redis = redis
        self._name = name
        self._database = database
        self._connections: dict[tuple[str, int | None], RespConnection] = {}
        """By the address of their node, "" for the one in ``redis.url``, and the database, None for the only one."""
        self._owners: list[Node | None] = []
        self._epoch = 0
        self.topology = known or Topology()
        self._reads_replicas = any(node.reads_at for node in self.all) or redis.read_from == "replica"
        first = self._first()
        self.name = str(first.address)
        self.database = first.address.database if database is None else database
        self.databases = databases_of(redis, self.database)
        self.is_cluster = first.facts.get("mode") == "cluster"
        if self.is_cluster and self.databases.are_several:
            self.close()
            raise in_a_cluster(self.name)
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def _first(self) -> RespConnection:
        """Return a connection to whoever answers first."""
        problem: RedisError | None = None
        for place in dict.fromkeys(("", *(node.address for node in self.all))):
            try:
                return self._at(place)
            except RedisUnreachable as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    @property
    def all(self) -> tuple[Node, ...]:
        """Return all nodes that have keys, or may get some, as they were when last asked."""
        return self.topology.nodes

    @property
    def parts(self) -> tuple[Node, ...]:
        """Return all nodes; if several databases of a server are captured, one for each of them."""
        if not self.databases.are_several:
            return self.all
        return tuple(self._in(number) for number in self.databases.numbers)

    def _in(self, database: int) -> Node:
        return replace(self.topology.nodes[0], database=database)

    def about(self, command: str, key: bytes) -> bytes:
        """Return a packed command about a key, as the server knows it."""
        return pack(command, self.databases.split(key)[1])

    def owner(self, key: bytes) -> Node:
        """Return the node that has this key; raise `RedisUnreachable` where none has it."""
        if self.databases.are_several:
            return self._in(self.databases.split(key)[0])
        if not self.is_cluster:
            return self.topology.nodes[0]
        node = self._owners[slot := slot_of(key)]
        if node is None:
            raise no_owner(slot)
        return node

    def by_owner(self, keys: Sequence[bytes]) -> list[tuple[Node, list[int]]]:
        """Return which of the keys, by their indexes, each node has."""
        found: dict[tuple[str, int | None], tuple[Node, list[int]]] = {}
        for index, key in enumerate(keys):
            node = self.owner(key)
            found.setdefault((node.id, node.database), (node, []))[1].append(index)
        return [*found.values()]

    def refresh(self) -> Topology:
        """Ask again which nodes there are."""
        if self.is_cluster or self._reads_replicas:
            others = [node.address for node in self.all if node.address]
            found = ask_topology(self._redis, others, self._epoch, self.topology)
            self.topology, self._epoch = found.topology, max(self._epoch, found.epoch)
            self._owners = self.topology.owners()
        else:
            self.topology = Topology()
        return self.topology

    def pipeline(self, node: Node, commands: Sequence[bytes], *, replies_each: int = 1) -> list[Any]:
        """Run these packed commands on a node; error replies are values, and a broken connection is replaced later."""
        try:
            return self._on(node).pipeline(b"".join(commands), len(commands) * replies_each)
        except RedisError:
            self._drop(node)
            raise

    def is_named(self, node: Node) -> bool:
        """Tell whether clients of this user may have a name on this node."""
        return self._on(node).is_named

    def call(self, node: Node, what: str, *command: bytes | str | int) -> Any:
        """Run a command on a node; raise what it refuses."""
        (reply,) = self.pipeline(node, [pack(*command)])
        self.check(node, what, reply)
        return reply

    def check(self, node: Node, what: str, reply: object) -> None:
        """Raise a node's refusal."""
        if isinstance(reply, Exception):
            raise refusal(node.address or self.name, what, str(reply))

    def redirect(self, node: Node, reply: object) -> Redirect | None:
        """Return where this reply of a node sends; None if it does not."""
        if not self.is_cluster or not isinstance(reply, hiredis.ReplyError):
            return None
        found = redirect_of(str(reply), split(node.place)[0])
        return found and Redirect(mapped(self._redis.node_addresses, found.address), found.is_moved)

    def ask(self, what: str, questions: Sequence[Keyed]) -> list[Any]:
        """Return the owners' answers to these questions; raise what they refuse."""
        return _Round(self, what, questions).answers()

    def ask_redirected(self, redirect: Redirect, commands: Sequence[bytes]) -> list[Any]:
        """Return the answer from where a redirect leads."""
        node = Node(address=redirect.address)
        if redirect.is_moved:
            return self.pipeline(node, commands)
        return self.pipeline(node, [ASKING + command for command in commands], replies_each=2)[1::2]

    def _on(self, node: Node) -> RespConnection:
        return self._at(node.place, node.database, is_readonly=self.is_cluster and bool(node.reads_at))

    def _at(self, address: str, database: int | None = None, *, is_readonly: bool = False) -> RespConnection:
        if (address, database) not in self._connections:
            settings = settings_at(self._redis, address) if address else self._redis
            self._connections[address, database] = self._opened(settings, database, is_readonly=is_readonly)
        return self._connections[address, database]

    def _opened(self, settings: RedisSettings, database: int | None, *, is_readonly: bool) -> RespConnection:
        chosen = self._database if database is None else database
        return RespConnection.open(settings, name=self._name, protocol=2, database=chosen, readonly=is_readonly)

    def _drop(self, node: Node) -> None:
        connection = self._connections.pop((node.place, node.database), None)
        if connection is not None:
            connection.close()


class Slices:
    """Which keys belong to a slice, which consists of whole nodes if there are enough (`engine.routing.assignment`).

    ``by_bytes``: see `engine.routing.assignment.is_by_bytes`.
    """

    def __init__(self, nodes: Nodes, *, by_bytes: bool = False) -> None:
        self._nodes = nodes
        self._by_bytes = by_bytes
        self._known: tuple[Topology, Slice, frozenset[str] | None] | None = None

    def owns(self, part: Slice, key: bytes) -> bool:
        """Tell whether a key belongs to this slice, as the nodes were when last asked."""
        if part.is_whole:
            return True
        topology = self._nodes.topology
        if self._known is None or self._known[0] is not topology or self._known[1] != part:
            by_nodes = takes_whole_nodes(topology, part, by_bytes=self._by_bytes)
            ids = frozenset(node.id for node in nodes_of_slice(topology, part)) if by_nodes else None
            self._known = (topology, part, ids)
        ids = self._known[2]
        return part.owns(self._nodes.databases.split(key)[1]) if ids is None else self._nodes.owner(key).id in ids


def no_owner(slot: int) -> RedisUnreachable:
    """Return the error for a slot without an owner."""
    return RedisUnreachable(
        f"slot {slot} has no owner", hint="give it to a node: CLUSTER ADDSLOTSRANGE, or redis-cli --cluster fix"
    )


class _Round:
    """Some questions, asked until each is answered."""

    def __init__(self, nodes: Nodes, what: str, questions: Sequence[Keyed]) -> None:
        self._nodes = nodes
        self._what = what
        self._questions = questions
        self._answers: dict[int, Any] = {}
        self._redirects: dict[int, Redirect] = {}
        self._trouble: RedisError | None = None

    def answers(self) -> list[Any]:
        """Return all answers."""
        give_up_ms, rounds = monotonic_ms() + TROUBLE_MS_MAX, 0
        while len(self._answers) < len(self._questions):
            if rounds:
                self._pause(monotonic_ms() >= give_up_ms, rounds)
            rounds += 1
            for redirect, indexes in self._redirected():
                self._ask(redirect, Node(address=redirect.address), indexes)
            left = [i for i in range(len(self._questions)) if i not in self._answers and i not in self._redirects]
            for node, places in self._nodes.by_owner([self._questions[index][0] for index in left]):
                self._ask(None, node, [left[place] for place in places])
        return [self._answers[index] for index in range(len(self._questions))]

    def _redirected(self) -> list[tuple[Redirect, list[int]]]:
        redirects, self._redirects = self._redirects, {}
        found: dict[Redirect, list[int]] = {}
        for index, redirect in redirects.items():
            found.setdefault(redirect, []).append(index)
        return [*found.items()]

    def _ask(self, redirect: Redirect | None, node: Node, indexes: Sequence[int]) -> None:
        nodes, commands = self._nodes, [self._questions[index][1] for index in indexes]
        try:
            replies = nodes.ask_redirected(redirect, commands) if redirect else nodes.pipeline(node, commands)
        except RedisUnreachable as error:
            if not nodes.is_cluster:
                raise
            self._trouble = error
            return
        for index, reply in zip(indexes, replies, strict=True):
            found = nodes.redirect(node, reply)
            if found is not None and found.address:
                self._redirects[index] = found
            elif nodes.is_cluster and isinstance(reply, hiredis.ReplyError) and passes(str(reply)):
                self._trouble = refusal(node.address, self._what, str(reply))
            else:
                nodes.check(node, self._what, reply)
                self._answers[index] = reply

    def _pause(self, is_late: bool, rounds: int) -> None:
        """Before asking the rest again: wait if there was trouble, and learn the present owners."""
        trouble, self._trouble = self._trouble, None
        if is_late:
            raise trouble or RedisUnreachable(
                f"the nodes of the cluster pass each other the question, and none will {self._what}",
                hint="does CLUSTER SLOTS say the same on all of them?",
            )
        if trouble is not None or rounds > _REDIRECTS_MAX:
            time.sleep(_AGAIN_S)
        if trouble is not None or any(redirect.is_moved for redirect in self._redirects.values()):
            try:
                self._nodes.refresh()
            except RedisUnreachable as error:
                self._trouble = error
