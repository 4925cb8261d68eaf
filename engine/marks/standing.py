"""How far the engine that runs here has come, as its status file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.clock import now_ms
from engine.errors import EngineError
from engine.observe.status import read_status
from engine.routing.nodes import Node, Topology
from engine.routing.slices import Slice, parse_slice

_LOSSES = ("gaps", "reconnects", "events_dropped")


@dataclass(frozen=True, slots=True)
class Standing:
    """One engine and its current run (``engine``), and its watermarks by the ids of nodes (Unix ms by each node's
    clock).

    ``losses`` counts whatever loses a mark, or ends a period in which marks were lost: gaps, reconnects, dropped
    events. ``is_listening`` once all of its subscribers have listened. ``nodes`` are those that it listens to.
    """

    engine: tuple[int, int]
    losses: int
    is_listening: bool
    settled_until_ms: Mapping[str, int]
    part: Slice
    nodes: Topology = field(default_factory=Topology)

    def has_settled(self, moments_ms: Mapping[str, int]) -> bool:
        """Tell whether everything that happened on these nodes before these moments is settled."""
        return all(self.settled_until_ms.get(node, 0) > moment_ms for node, moment_ms in moments_ms.items())

    def has_heard_all_since(self, before: Standing) -> bool:
        """Tell whether this engine has listened without a break since the other standing."""
        return before.is_listening and self.engine == before.engine and self.losses == before.losses


def nodes_known(status_file: str) -> Topology | None:
    """Return the nodes that the engine that runs here listens to, without their slots; None if none runs."""
    standing = read_standing(status_file)
    return standing.nodes if standing is not None else None


def _node(told: Mapping[str, Any]) -> Node:
    return Node(
        id=str(told["id"]), address=str(told.get("address", "")), reads_at=str(told.get("reads_at", "")), slots=()
    )


def read_standing(status_file: str) -> Standing | None:
    """Return how far the engine has come; None if none runs here."""
    try:
        status: dict[str, Any] = read_status(status_file, now_ms())
        return Standing(
            (int(status["pid"]), int(status["started_at_ms"])),
            sum(int(status["totals"][name]) for name in _LOSSES),
            all(child["state"] == "ready" for child in status["children"] if child["role"] == "subscriber"),
            {str(node["id"]): int(node["settled_until_ms"]) for node in status["nodes"]},
            parse_slice(status["slice"]),
            Topology(tuple(_node(node) for node in status["nodes"])),
        )
    except (EngineError, KeyError, TypeError, ValueError):
        return None
