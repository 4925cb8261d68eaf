"""Which slots a scan of a cluster has seen, while slots and nodes move."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit.scanning import ClusterScan, Ledger, Move, moves_of, sources_first
from engine.errors import RedisUnreachable
from engine.routing.nodes import SLOTS, Node, Topology, as_ranges, slot_of

KEYS = [b"key:%d" % number for number in range(300)]


def node(name: str, *slots: tuple[int, int], epoch: int = 0) -> Node:
    return Node(0, name, f"{name}:1", slots, epoch)


def test_what_a_node_says_of_slots_on_their_way() -> None:
    """``CLUSTER NODES`` has moves in brackets, those from the node and those to it."""
    text = b"aa 1:1@2 myself,master - 0 0 1 connected 0-5 [3->-bb] [9-<-cc]\nbb 1:2@2 master - 0 0 2 connected 6-8\n"
    assert moves_of("aa", text) == {Move(3, "aa", "bb"), Move(9, "cc", "aa")}


def test_importers_come_after_owners() -> None:
    """Who imports a slot is scanned after its owner; a circle is cut somewhere, and all nodes are there."""
    a, b, c = node("a"), node("b"), node("c")
    assert [one.id for one in sources_first([a, b, c], [Move(1, "b", "a"), Move(2, "c", "b")])] == ["c", "b", "a"]
    assert {one.id for one in sources_first([a, b], [Move(1, "b", "a"), Move(2, "a", "b")])} == {"a", "b"}


def test_only_slots_that_stayed_are_done() -> None:
    """A slot that came or went during the scan of a node is scanned again; one that was given back too."""
    ledger = Ledger({0, 1, 2, 3})
    ledger.scanned(node("a", (0, 2)), node("a", (1, 3), epoch=2), set(), set())
    assert ledger.todo == {0, 3}
    ledger.scanned(node("b", (0, 0)), node("b", (0, 0), epoch=9), set(), set())
    ledger.scanned(node("b", (0, 0)), None, set(), set())
    assert ledger.todo == {0, 3}


def test_a_slot_on_its_way_is_done_with_both_nodes() -> None:
    """Its owner is scanned, then the node that imports it, while the move goes on or after it has ended."""
    move = Move(1, "a", "b")
    for after in (node("b"), node("b", (1, 1), epoch=3)):
        ledger = Ledger({1})
        ledger.scanned(node("b"), node("b"), {move}, {move})
        assert ledger.todo == {1}
        ledger.scanned(node("a", (1, 1)), node("a", (1, 1)), {move}, {move})
        assert ledger.todo == {1}
        ledger.scanned(node("b"), after, {move}, {move} if not after.slots else set())
        assert not ledger.todo


def test_a_move_that_began_meanwhile_is_scanned_again() -> None:
    """Keys may have left before they were seen, and the other node was not looked at since."""
    ledger = Ledger({1})
    ledger.scanned(node("a", (1, 1)), node("a", (1, 1)), set(), {Move(1, "a", "b")})
    ledger.scanned(node("b"), node("b"), {Move(1, "a", "b")}, {Move(1, "a", "b")})
    assert ledger.todo == {1}


class FakeCluster:
    """Nodes in memory; before each part of a scan some change is made. Stands for `Nodes`, and for its scans."""

    is_cluster = True

    def __init__(self, changes: list[tuple[str, int, int]]) -> None:
        self.changes = changes
        self.names = ["a", "b", "c"]
        self.owners = [self.names[slot * 3 // SLOTS] for slot in range(SLOTS)]
        self.epochs = dict.fromkeys(self.names, 1)
        self.held = {name: {key for key in KEYS if self.owners[slot_of(key)] == name} for name in self.names}
        self.open: dict[int, str] = {}
        self.is_down = False

    @property
    def nodes(self) -> tuple[Node, ...]:
        slots = {name: [slot for slot, owner in enumerate(self.owners) if owner == name] for name in self.names}
        return tuple(Node(0, name, name, as_ranges(slots[name]), self.epochs[name]) for name in self.names)

    def refresh(self) -> Topology:
        return Topology(self.nodes, is_cluster=True)

    def pipeline(self, asked: Node, commands: list[bytes]) -> list[bytes]:
        words = []
        for slot, target in self.open.items():
            if self.owners[slot] == asked.id:
                words.append(f"[{slot}->-{target}]")
            if target == asked.id:
                words.append(f"[{slot}-<-{self.owners[slot]}]")
        return [" ".join(words).encode()]

    def scan(self, scanned: Node) -> Iterator[list[bytes]]:
        """Yield what the node holds, a few keys at a time, like a table that is walked: by the keys' order."""
        position = -1
        while position < len(KEYS):
            self.change()
            if self.is_down:
                self.is_down = False
                raise RedisUnreachable("it is down")
            part = range(position + 1, position + 60)
            yield [KEYS[index] for index in part if index < len(KEYS) and KEYS[index] in self.held[scanned.id]]
            position = part[-1]

    def change(self) -> None:
        if not self.changes:
            return
        what, index, name = self.changes.pop(0)
        slot, target = slot_of(KEYS[index]), self.names[name]
        keys = [key for key in KEYS if slot_of(key) == slot]
        if what == "down":
            self.is_down = True
        elif what == "begin" and self.owners[slot] != target:
            self.open.setdefault(slot, target)
        elif what == "some" and slot in self.open:
            self.put(keys[:1], self.open[slot])
        elif what == "end" and slot in self.open:
            target = self.open.pop(slot)
            self.put(keys, target)
            self.own(slot, target)
        elif what == "jump" and slot not in self.open and self.owners[slot] != target:
            self.put(keys, target)
            self.own(slot, target)

    def own(self, slot: int, target: str) -> None:
        self.owners[slot] = target
        if self.epochs[target] < (highest := max(self.epochs.values())) or [*self.epochs.values()].count(highest) > 1:
            self.epochs[target] = highest + 1

    def put(self, keys: list[bytes], target: str) -> None:
        for held in self.held.values():
            held.difference_update(keys)
        self.held[target].update(keys)


changes = st.lists(
    st.tuples(
        st.sampled_from(["begin", "some", "end", "jump", "jump", "down"]),
        st.sampled_from([0, 1, 150, 298, 299]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(changes)
def test_every_key_is_seen_whatever_moves(moved: list[tuple[str, int, int]]) -> None:
    """Slots move at once or key by key, forth and back, and nodes fail: each key that is there is seen."""
    cluster = FakeCluster(list(moved))
    scan = ClusterScan(cluster, cluster.scan, sleep=lambda seconds: None)  # type: ignore[arg-type]
    seen = {key for keys in scan.all_keys() for key in keys}
    assert seen == set(KEYS)
