"""Nodes and slots, by the cluster specification's own example and by what must hold of any key."""

from __future__ import annotations

from engine.routing.nodes import ALL_SLOTS, Node, Topology, as_ranges, slot_of, slots_gained, slots_in


def test_a_slot_is_that_of_the_hash_tag() -> None:
    """CRC16 of the specification's example, of a tag alone, and of keys whose braces hold nothing."""
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"cart:{7}:a") == slot_of(b"{7}") == slot_of(b"7")
    assert slot_of(b"{}7") != slot_of(b"7")
    assert slot_of(b"{{7}}") == slot_of(b"{7")
    assert slot_of(b"") == 0


def test_ranges_and_what_is_gained() -> None:
    """Ranges hold both their ends; what a node had before it has not gained."""
    assert as_ranges([5, 1, 2, 3]) == ((1, 3), (5, 5))
    assert slots_gained(((0, 9),), ((5, 12), (20, 20))) == ((10, 12), (20, 20))
    assert len(list(slots_in(ALL_SLOTS))) == 16_384


def test_a_slot_without_an_owner() -> None:
    """Every slot has the node that names it, and none where nobody does."""
    left, right = Node(1, "a", "h:1", ((0, 9),)), Node(2, "b", "h:2", ((11, 16_383),))
    owners = Topology((left, right), is_cluster=True).owners()
    assert owners[9] == left
    assert owners[10] is None
    assert owners[11] == right
