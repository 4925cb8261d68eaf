"""Which node is asked for which key: one reader per node, and a table of the slots' owners.

If several databases of a server are captured, each has its own reader: a connection stays in its database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.delivery.reading.job import Job, Key
from engine.delivery.reading.node_reader import NodeReader
from engine.delivery.reading.versions import SlotVersions, Versions
from engine.redis.address import mapped
from engine.redis.cluster.redirects import LATER
from engine.routing.databases import Databases, split
from engine.routing.events import ENTRY
from engine.routing.nodes import SLOTS, Node, Topology, slot_of, slots_in
from engine.routing.streams import entry_of

Group = tuple[NodeReader, Sequence[int], Sequence[int], Sequence[int]]
"""A reader, the indexes of the keys to ask it for, their slots (none without cluster mode), and, by key, the version
at which its owner named this reader."""

UNKNOWN = -1
"""The number of a node that the supervisor has not named yet."""


class Readers:
    """The readers of one topology; ``floors`` has, by node id, what versions have to exceed."""

    def __init__(
        self,
        make: Callable[[Node, bool, Versions, int], NodeReader],
        topology: Topology,
        floors: Mapping[str, int],
        databases: Databases,
    ) -> None:
        self._make = make
        self._databases = databases
        self._of_database: dict[int, NodeReader] = {}
        """If there are several."""
        self._versions = {node_id: Versions(floor) for node_id, floor in floors.items()}
        self._all: dict[str, NodeReader] = {}
        """By the address that is connected to."""
        self._at: dict[str, NodeReader] = {}
        """By the address that nodes name each other by."""
        self._owners: list[NodeReader | None] = []
        self.slot_versions = SlotVersions()
        self.is_cluster = False
        self.lone: NodeReader | None = None
        """The only one, if there is no cluster."""
        self.use(topology)

    def all(self) -> list[NodeReader]:
        """Return all readers."""
        return list(self._all.values())

    def use(self, topology: Topology) -> list[NodeReader]:
        """Read from these nodes from now on; return the readers that are no longer used."""
        before, self._all, self._at = self._all, {}, {}
        self.is_cluster = topology.is_cluster
        self._owners = [None] * SLOTS
        if self._databases.are_several:
            return self._use_databases(topology, before)
        for node in topology.nodes:
            address = node.place
            reader = before.pop(address, None)
            if reader is None or not topology.is_cluster:
                # Without cluster mode the same name may lead to another server now.
                if reader is not None:
                    before[f"former {address}"] = reader
                reader = self._make(node, topology.is_cluster, self._versions_of(node.id), self._databases.home)
            elif reader.node.id != node.id:
                reader.versions = self._versions_of(node.id, reader.versions.newest)
            reader.node = node
            self._all[address] = self._at[node.address] = reader
            for slot in slots_in(node.slots):
                self._owners[slot] = reader
        self.lone = None if topology.is_cluster else next(iter(self._all.values()))
        return list(before.values())

    def _use_databases(self, topology: Topology, before: dict[str, NodeReader]) -> list[NodeReader]:
        """Read all databases of the one node; the same name may lead to another server now."""
        (node,) = topology.nodes
        for number in self._databases.numbers:
            former = self._of_database.get(number)
            # Versions order the values of a key, which is in one database: each has its own.
            versions = former.versions if former is not None else Versions(self._versions_of(node.id).newest)
            reader = self._make(node, False, versions, number)
            reader.is_called_for = number == self._databases.home or (former is not None and former.is_called_for)
            self._all[f"{node.place}/{number}"] = self._of_database[number] = reader
        return list(before.values())

    def _versions_of(self, node_id: str, floor: int = 0) -> Versions:
        versions = self._versions.setdefault(node_id, Versions())
        versions.newest = max(versions.newest, floor)
        return versions

    def named(self, address: str) -> NodeReader:
        """Return the reader of the node that others call by this name, a new one for a new name."""
        reader = self._at.get(address)
        if reader is None:
            node = Node(UNKNOWN, address, address, ())
            reader = self._make(node, self.is_cluster, Versions(), self._databases.home)
            self._all[address] = self._at[address] = reader
        return reader

    def moved(self, slot: int, reader: NodeReader) -> None:
        """Note that a slot belongs to this node from now on."""
        self._owners[slot] = reader

    def follow(self, job: Job, node_addresses: Iterable[str]) -> tuple[list[Group], list[int], bool]:
        """Return which readers to ask for the keys that a job was redirected with, the indexes of those that are to be
        asked for later, and whether slots have moved.
        """
        found: dict[tuple[NodeReader, bool], tuple[list[int], list[int], list[int]]] = {}
        later: list[int] = []
        for place, redirect, version in job.redirects:
            index, slot = job.indexes[place], job.slots[place]
            if redirect is LATER:
                later.append(index)
                continue
            reader = self.named(mapped(node_addresses, redirect.address))
            if redirect.is_moved:
                self.moved(slot, reader)
            indexes, slots, asked = found.setdefault((reader, redirect.is_moved), ([], [], []))
            if not redirect.is_moved:
                asked.append(version)
            indexes.append(index)
            slots.append(slot)
        groups: list[Group] = [(reader, *group) for (reader, _), group in found.items()]
        return groups, later, any(is_moved for _, is_moved in found)

    def group(self, keys: Sequence[Key]) -> tuple[list[Group], list[int]]:
        """Return which reader is asked for which of these keys, and the indexes of those without an owner."""
        if self.lone is not None:
            return [(self.lone, range(len(keys)), (), ())], []
        if self._databases.are_several:
            return self._by_database(keys), []
        owners = self._owners
        groups: dict[NodeReader, tuple[list[int], list[int]]] = {}
        orphans: list[int] = []
        for index, (key, event) in enumerate(keys):
            slot = slot_of(key if event != ENTRY else entry_of(key)[0])
            owner = owners[slot]
            if owner is None:
                orphans.append(index)
            elif (group := groups.get(owner)) is not None:
                group[0].append(index)
                group[1].append(slot)
            else:
                groups[owner] = ([index], [slot])
        return [(owner, indexes, slots, ()) for owner, (indexes, slots) in groups.items()], orphans

    def _by_database(self, keys: Sequence[Key]) -> list[Group]:
        found: dict[int, list[int]] = {}
        for index, (key, _) in enumerate(keys):
            found.setdefault(split(key)[0], []).append(index)
        groups: list[Group] = []
        for number, indexes in found.items():
            reader = self._of_database[number]
            reader.is_called_for = True
            groups.append((reader, indexes, (), ()))
        return groups
