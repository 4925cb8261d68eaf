"""A cluster in memory: nodes with clocks of their own, slots that move, and connections that answer for a node."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

import hiredis

from engine.delivery.reading.connection import ReadConnection
from engine.errors import RedisUnreachable
from engine.redis.address import parse_url
from engine.routing.nodes import Node, Topology, slot_of

CLOCKS_APART_US = 9_000_000
KEYS = tuple(b"key:%d" % number for number in range(12))


@dataclass
class FakeNode:
    """One primary; ``current`` is the highest epoch that it has heard of, ``owners`` whom it takes for whose."""

    number: int
    ahead_us: int
    epoch: int
    current: int = 0
    owners: dict[int, int] = field(default_factory=dict)
    keys: dict[bytes, int] = field(default_factory=dict)


class FakeCluster:
    """Everything, and what happens to it; ``read`` is told of every value that is given out."""

    def __init__(self, rng: random.Random, nodes: int = 3) -> None:
        self.rng = rng
        self.true_us = 1_700_000_000_000_000
        self.nodes = [
            FakeNode(number, rng.randint(0, CLOCKS_APART_US), number + 1, current=nodes) for number in range(nodes)
        ]
        self.slots = {slot_of(key): key for key in KEYS}
        self.moving: dict[int, tuple[FakeNode, FakeNode]] = {}
        self.written_us: dict[bytes, int] = {}
        for slot, key in self.slots.items():
            owner = rng.choice(self.nodes)
            owner.keys[key] = 0
            for node in self.nodes:
                node.owners[slot] = owner.number
        self.gossips = True
        """Whether all have heard of all epochs before a slot is moved."""
        self.is_down = False

    # What happens

    def write(self) -> None:
        """Change a key, where it is."""
        key = self.rng.choice(KEYS)
        holder = next(node for node in self.nodes if key in node.keys)
        holder.keys[key] += 1

    def move(self) -> None:
        """Begin to move a slot, bring its key over, or end a move."""
        slot = self.rng.choice([*self.slots])
        if slot not in self.moving:
            source = self.nodes[self.owner_of(slot).number]
            target = self.rng.choice([node for node in self.nodes if node is not source])
            self.moving[slot] = source, target
            return
        source, target = self.moving[slot]
        key = self.slots[slot]
        if key in source.keys:
            target.keys[key] = source.keys.pop(key)
            return
        del self.moving[slot]
        if self.gossips:
            self.gossip()
        if target.epoch != max(target.current, target.epoch):
            target.current += 1
            target.epoch = target.current
        target.owners[slot] = source.owners[slot] = target.number

    def gossip(self) -> None:
        """Have every node hear of the highest epoch, and of every slot's owner."""
        highest = max(node.epoch for node in self.nodes)
        for slot in self.slots:
            owner = self.owner_of(slot)
            for node in self.nodes:
                node.current = max(node.current, highest)
                node.owners[slot] = owner.number

    def owner_of(self, slot: int) -> FakeNode:
        """Return who has a slot: the one that says so itself."""
        return next(node for node in self.nodes if node.owners[slot] == node.number)

    def fail_over(self) -> None:
        """Have another server, with another clock, take a node's place: a new epoch, and the same keys."""
        self.gossip()
        node = self.rng.choice(self.nodes)
        node.current += 1
        node.epoch = node.current
        node.ahead_us = self.rng.randint(0, CLOCKS_APART_US)

    def tick(self) -> None:
        """Let a little time pass."""
        self.true_us += self.rng.randint(1, 40)

    def topology(self) -> Topology:
        """Return the cluster as it is."""
        slots: dict[int, list[tuple[int, int]]] = {node.number: [] for node in self.nodes}
        for slot in self.slots:
            slots[self.owner_of(slot).number].append((slot, slot))
        nodes = (
            Node(node.number, f"node-{node.number}", f"node:{node.number + 1}", tuple(slots[node.number]), node.epoch)
            for node in self.nodes
        )
        return Topology(tuple(nodes), is_cluster=True)


class NodeConnection(ReadConnection):
    """Stands for a connection to a node of ``cluster``; things happen between its commands too."""

    cluster: ClassVar[FakeCluster]
    happens: ClassVar[Any] = staticmethod(lambda: None)
    seen: ClassVar[dict[tuple[bytes, int], int]] = {}
    """When (true time) a key was found to hold this value."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.address = parse_url(f"redis://node:{node.number + 1}")
        self.epoch = self.renewal_ms = 0
        self._is_asking = False

    @classmethod
    def open(cls, redis: Any, **_: Any) -> NodeConnection:
        """Connect."""
        return cls(cls.cluster.nodes[parse_url(redis.url).port - 1])

    def begin(self, commands: bytes, count: int, reply_bytes_max: int) -> None:
        """Take commands."""
        self.asked = hiredis.Reader()
        self.asked.feed(commands)
        self.received_bytes = 0

    def wants(self) -> int:
        """Tell that there is nothing to wait for."""
        return 0

    def go_on(self) -> list[Any] | None:
        """Answer them all, one after the other."""
        replies = []
        while (command := self.asked.gets()) is not False:
            self.cluster.tick()
            type(self).happens()
            replies.append(self._answer(command))
        if self.cluster.is_down:
            raise RedisUnreachable("away")
        return replies

    def _answer(self, command: list[bytes]) -> Any:
        cluster, node = self.cluster, self.node
        match command[0]:
            case b"TIME":
                told_us = cluster.true_us + node.ahead_us
                return [str(told_us // 1_000_000), str(told_us % 1_000_000)]
            case b"CLUSTER":
                return f"cluster_state:ok\r\ncluster_my_epoch:{node.epoch}\r\ncluster_size:3\r\n"
            case b"ASKING":
                self._is_asking = True
                return "OK"
        is_asking, self._is_asking = self._is_asking, False
        key = command[1]
        slot = slot_of(key)
        source, target = cluster.moving.get(slot, (None, None))
        owner = node.owners[slot]
        if owner != node.number and not (is_asking and node is target):
            return hiredis.ReplyError(f"MOVED {slot} node:{owner + 1}")
        if node is source and key not in node.keys and target is not None:
            return hiredis.ReplyError(f"ASK {slot} node:{target.number + 1}")
        return {"n": str(node.keys[key])} if key in node.keys else {}

    def receive_available(self) -> bool:
        """Tell that nothing came unasked."""
        return False

    def close(self) -> None:
        """Close nothing."""
