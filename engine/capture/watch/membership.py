"""Whether a node is still what its feed takes it for, and whether the nodes around it are still the same.  (pure)

A cluster does not tell clients that a slot has moved or another node has been promoted. But each of its nodes knows,
and ``CLUSTER INFO`` shows it in a few figures. They do not name the new nodes, but are reason enough to ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.routing.nodes import Node

QUESTION = ("CLUSTER", "INFO")

_FIGURES = (
    b"cluster_state",
    b"cluster_slots_assigned",
    b"cluster_slots_ok",
    b"cluster_known_nodes",
    b"cluster_size",
    b"cluster_current_epoch",
    b"cluster_my_epoch",
)
_EPOCH = b"cluster_my_epoch"
_PRIMARY, _REPLICA = b"master", b"slave"
AGAIN_MS_MIN, AGAIN_MS_MAX = 1_000, 60_000
"""While it lasts, the request is repeated at growing intervals: the node that was asked may not have known yet."""


class Seen(Protocol):
    """What a look says of the node's place."""

    @property
    def role(self) -> bytes:
        """Return the role in replication, b"" if it is unknown."""

    @property
    def is_linked(self) -> bool:
        """Tell whether it is a primary, or connected to its primary."""

    @property
    def cluster(self) -> Mapping[bytes, bytes]:
        """Return the figures of the cluster."""


def read_figures(reply: object) -> dict[bytes, bytes]:
    """Return the figures in the answer to `QUESTION`; none where it was refused."""
    if not isinstance(reply, bytes):
        return {}
    told = dict(line.split(b":", 1) for line in reply.split(b"\r\n") if b":" in line)
    return {name: told[name] for name in _FIGURES if name in told}


class Membership:
    """One feed's node, look by look."""

    def __init__(self, node: Node) -> None:
        self.is_misplaced = False
        """Whether the node does not have the role that its feed expects: what is heard there proves nothing."""
        self._again_ms = 0
        self._wait_ms = AGAIN_MS_MIN
        self.follow(node)

    def follow(self, node: Node) -> None:
        """Take what the node is now, by the newest topology."""
        self._epoch = node.epoch if node.id else 0
        # A server that is named by its URL alone may be either.
        self._is_named = not (node.address or node.reads_at)
        self._role = b"" if self._is_named else _REPLICA if node.reads_at else _PRIMARY

    def has_resigned(self, before: Seen, now: Seen) -> bool:
        """Tell whether ``redis.url`` may lead elsewhere now: it led to a node that is no longer a primary."""
        return self._is_named and before.role == _PRIMARY and now.role == _REPLICA

    def take(self, before: Seen, now: Seen, moment_ms: int) -> str:
        """Return why the nodes should be asked for, "" for no reason."""
        self.is_misplaced = bool(self._role and now.role) and now.role != self._role
        news = _news(before, now)
        lasting = self._lasting(now)
        if news or not lasting:
            self._wait_ms = AGAIN_MS_MIN
        if not news and (not lasting or moment_ms < self._again_ms):
            return ""
        self._again_ms = moment_ms + self._wait_ms
        self._wait_ms = min(2 * self._wait_ms, AGAIN_MS_MAX)
        return news or lasting

    def _lasting(self, now: Seen) -> str:
        """Return what differs from the newest topology."""
        if self.is_misplaced:
            return f"it is now a {_in_words(now.role)}"
        if self._role == _REPLICA and not now.is_linked:
            return "it has lost its primary"
        epoch = now.cluster.get(_EPOCH, b"").decode()
        return f"{_EPOCH.decode()} is {epoch}" if epoch and self._epoch and epoch != str(self._epoch) else ""


def _news(before: Seen, now: Seen) -> str:
    if before.role and now.role and before.role != now.role:
        return f"it is now a {_in_words(now.role)}"
    for name, figure in now.cluster.items():
        if name in before.cluster and before.cluster[name] != figure:
            return f"{name.decode()} is {figure.decode()}"
    return ""


def _in_words(role: bytes) -> str:
    return "primary" if role == _PRIMARY else "replica"
