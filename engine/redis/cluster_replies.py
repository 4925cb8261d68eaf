"""Parses what a node of a cluster says about all nodes.  (pure)

``CLUSTER NODES`` has the ids, the slots and the epochs, and nodes without slots; ``CLUSTER SLOTS`` says where clients
reach those that have some, by the cluster's own choice of address, name or *the one that you asked*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_GONE = frozenset({"noaddr", "handshake"})


class NodeLine(msgspec.Struct, frozen=True):
    """A line of ``CLUSTER NODES``; ``ip`` and ``name`` are "" if they are not known."""

    id: str
    ip: str
    port: int
    name: str
    flags: frozenset[str]
    primary_id: str
    epoch: int
    slots: tuple[tuple[int, int], ...]

    @property
    def is_primary(self) -> bool:
        """Tell whether it has keys, or may get some: a failed node without slots is not waited for."""
        is_dead = "fail" in self.flags and not self.slots
        return "master" in self.flags and not is_dead and not _GONE & self.flags

    @property
    def is_replica(self) -> bool:
        """Tell whether it is another node's replica, and healthy as far as is known."""
        return "slave" in self.flags and not {"fail", "fail?", *_GONE} & self.flags


def nodes_in(reply: bytes) -> list[NodeLine]:
    """Return the lines of ``CLUSTER NODES``."""
    return [_node(line.split(" ")) for line in reply.decode("utf-8", "replace").splitlines() if line.strip()]


def _node(words: list[str]) -> NodeLine:
    # "10.0.0.1:6379@16379,name,shard-id=…"; a node that has met no other does not know its own address.
    place, _, rest = words[1].partition(",")
    ip, _, port = place.partition("@")[0].rpartition(":")
    name = rest.partition(",")[0]
    # Slots in brackets are moving.
    ranges = [word.partition("-") for word in words[8:] if not word.startswith("[")]
    return NodeLine(
        words[0],
        ip,
        int(port),
        "" if "=" in name else name,
        frozenset(words[2].split(",")),
        "" if words[3] == "-" else words[3],
        int(words[6]),
        tuple((int(first), int(last or first)) for first, _, last in ranges),
    )


def addresses_in(reply: Iterable[Any], asked_host: str) -> dict[str, tuple[str, int]]:
    """Return, by node id, the host and port at which clients reach it, as ``CLUSTER SLOTS`` says.

    A null stands for the host that was asked; ``?`` is a name that is not known.
    """
    found: dict[str, tuple[str, int]] = {}
    for _, _, *nodes in reply:
        for host, port, id, *_ in nodes:
            name = _text(host or b"") or asked_host
            if name != "?":
                found[_text(id)] = (name, int(port))
    return found


def facts_in(reply: bytes) -> Mapping[str, str]:
    """Return the lines of ``CLUSTER INFO``."""
    lines = reply.decode("ascii", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _text(word: bytes | str) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else word
