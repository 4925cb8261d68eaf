"""Publishes marks, and says which of them can no longer be lost.

A mark is a message: a subscriber that is killed, a connection that breaks or a full dirty set loses it, and the repair
that follows does not find the key by it. Two rules prevent that:

- **A key that exists is touched first.** So it counts as used in whatever gap loses its mark, and the narrowed repair
  of that gap finds it. ``TOUCH`` counts for clients with ``NO-TOUCH`` as well.
- **A key that is gone leaves nothing to find**, and a route that skips what it accepted before does not deliver what a
  repair finds. Such a mark is safe only once the engine's watermark has passed the moment of publication without any
  gap since; after a gap it is published again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from engine.clock import monotonic_ms
from engine.errors import EngineError, RedisUnreachable
from engine.marks.receivers import Receivers, receivers
from engine.marks.standing import Standing
from engine.redis.cluster.nodes import Nodes, Slices
from engine.redis.connection import pack
from engine.routing.events import REPAIR
from engine.routing.nodes import Node
from engine.text import counted

KEYS_AT_ONCE = 500
LOOK_S = 0.2
AGAIN_S_MAX = 10.0
SETTLED_MS_MAX = 60_000
"""How long to wait until a mark is settled."""

_ELSEWHERE = (
    "the engine that has them does not run here",
    "run this where it runs, with its settings: supervision.status_file",
)
_STANDS_STILL = ("the engine's watermark stands still", "see engine status, then run this again")
_CLIENTS = pack("CLIENT", "LIST", "TYPE", "pubsub")


class NotListening(EngineError):
    """The engine does not hear what is published."""


class NotSettled(EngineError):
    """It is not known whether marks that were published are settled."""


class Mark(NamedTuple):
    """A key, and the event that is published for it: `REPAIR` or `REPAIR_GONE`."""

    key: bytes
    event: str


@dataclass(slots=True)
class _Published:
    """One publication: which marks are already safe, which nobody heard, and its time by each node's own clock.

    ``astray`` marks went to a node that no longer has their key, or that broke (``trouble``). ``homes`` has the nodes
    of the others.
    """

    sure: set[int] = field(default_factory=set)
    unheard: set[int] = field(default_factory=set)
    astray: set[int] = field(default_factory=set)
    homes: dict[int, str] = field(default_factory=dict)
    moments_ms: dict[str, int] = field(default_factory=dict)
    trouble: RedisUnreachable | None = None

    def moments_ms_of(self, marks: Iterable[int]) -> dict[str, int]:
        """Return when these marks were published, by node."""
        nodes = {self.homes[index] for index in marks if index in self.homes}
        return {node: self.moments_ms[node] for node in nodes}


class _Wait(Enum):
    SETTLED = auto()
    INTERRUPTED = auto()
    GIVEN_UP = auto()


class Marker:
    """Marks keys on the nodes that have them. ``problem`` says why the newest marks are not all safe, None if they are.

    ``standing`` returns how far the engine that runs here has come. Raises `RedisError` if a connection breaks.
    """

    def __init__(
        self,
        nodes: Nodes,
        standing: Callable[[], Standing | None],
        slices: Slices | None = None,
        *,
        settled_ms_max: int = SETTLED_MS_MAX,
        repairs_deliver: bool = True,
    ) -> None:
        """``repairs_deliver`` says that repairs deliver all that they find: no route skips what it accepted before."""
        self.problem: EngineError | None = None
        self._nodes = nodes
        self._prefix = nodes.databases.prefix
        self._standing = standing
        self._slices = slices or Slices(nodes)
        self._settled_ms_max = settled_ms_max
        self._repairs_deliver = repairs_deliver

    def mark(self, marks: Sequence[Mark], pause: Callable[[int], None] = lambda keys: None) -> list[bool]:
        """Publish the marks; return which of them the engine can no longer lose. ``pause`` is called for each part."""
        self.problem = None
        deadline_ms = monotonic_ms() + self._settled_ms_max
        sure: set[int] = set()
        left, rounds = list(range(len(marks))), 0
        while left:
            if rounds:
                # Whatever loses marks may last for a while: each round waits longer, so as not to flood the engine.
                time.sleep(min(AGAIN_S_MAX, LOOK_S * 2**rounds))
            before = self._standing()
            published = self._publish(marks, left, pause)
            sure |= published.sure
            lost = set() if rounds else published.unheard
            if lost:
                self._complain_unheard(len(lost), len(marks))
            left, rounds = [index for index in left if index not in sure | lost], rounds + 1
            here = [index for index in left if self._is_here(before, marks[index].key, published.homes.get(index))]
            if len(here) < len(left):
                self._complain_unsettled(len(left) - len(here), _ELSEWHERE)
            left = here
            if before is None or not left:
                break
            outcome = self._wait(before, published.moments_ms_of(left), deadline_ms)
            if outcome is _Wait.GIVEN_UP:
                if published.trouble is not None:
                    raise published.trouble
                self._complain_unsettled(len(left), _STANDS_STILL)
                break
            if outcome is _Wait.SETTLED:
                # A shard whose subscriber was being replaced has heard nothing.
                again = published.unheard | published.astray
                sure.update(index for index in left if index not in again)
                left = [index for index in left if index in again]
        return [index in sure for index in range(len(marks))]

    def _is_here(self, before: Standing | None, key: bytes, node: str | None) -> bool:
        """Tell whether the engine that runs here listens for this key; a mark that went astray is published again."""
        if before is None or node is None:
            return before is not None
        return node in before.settled_until_ms and self._slices.owns(before.part, key)

    def _publish(self, marks: Sequence[Mark], left: Sequence[int], pause: Callable[[int], None]) -> _Published:
        published = _Published()
        for start in range(0, len(left), KEYS_AT_ONCE):
            part = left[start : start + KEYS_AT_ONCE]
            pause(len(part))
            for node, places in self._nodes.by_owner([marks[index].key for index in part]):
                indexes = [part[place] for place in places]
                try:
                    self._publish_on(node, marks, indexes, published)
                except RedisUnreachable as error:
                    if not self._nodes.is_cluster:
                        raise
                    published.astray.update(indexes)
                    published.trouble = error
        if published.astray:
            self._nodes.refresh()
        return published

    def _publish_on(self, node: Node, marks: Sequence[Mark], part: Sequence[int], published: _Published) -> None:
        # Ask who is subscribed before and after: a monitor may leave, and a subscriber may be cut off, in between.
        commands = [_CLIENTS]
        for index in part:
            key, event = marks[index]
            commands += [self._nodes.about("TOUCH", key), pack("PUBLISH", self._prefix + key, event)]
        commands += [_CLIENTS, pack("TIME")]
        first, *replies, last, moment = self._nodes.pipeline(node, commands)
        for what, reply in (*(("publish", reply) for reply in replies[1::2]), ("report its time", moment)):
            self._nodes.check(node, what, reply)
        # If clients may not name themselves, the engine's have no name either.
        who = _who(first, last) if self._nodes.is_named(node) else None
        for index, touched, heard in zip(part, replies[::2], replies[1::2], strict=True):
            redirect = self._nodes.redirect(node, touched)
            if redirect is not None and redirect.is_moved:
                published.astray.add(index)
                continue
            published.homes[index] = node.id
            if heard == 0 or (who is not None and not who.engines):
                published.unheard.add(index)
            elif who is not None and heard > who.others_max and touched == 1 and self._is_found_again(marks[index]):
                published.sure.add(index)
        published.moments_ms[node.id] = int(moment[0]) * 1_000 + int(moment[1]) // 1_000

    def _is_found_again(self, mark: Mark) -> bool:
        """Tell whether the repair of a gap that loses a mark delivers its key, if the key exists."""
        return self._repairs_deliver and mark.event == REPAIR

    def _wait(self, before: Standing, moments_ms: Mapping[str, int], deadline_ms: int) -> _Wait:
        """Wait until each watermark has passed its moment, something may have been lost, or the time is up."""
        while monotonic_ms() < deadline_ms:
            time.sleep(LOOK_S)
            now = self._standing()
            if now is not None and not now.has_heard_all_since(before):
                return _Wait.INTERRUPTED
            if now is not None and now.has_settled(moments_ms):
                return _Wait.SETTLED
        return _Wait.GIVEN_UP

    def _complain_unheard(self, count: int, total: int) -> None:
        self.problem = NotListening(
            f"no engine at {self._nodes.name} heard of {count:,} of {counted(total, 'key')}: none runs, or one of its "
            "subscribers is reconnecting",
            hint="see engine status, then run this again: nothing is lost meanwhile",
        )

    def _complain_unsettled(self, count: int, why: tuple[str, str]) -> None:
        if self.problem is None:
            self.problem = NotSettled(
                f"sent, and not known to be settled: {counted(count, 'key')}; {why[0]}", hint=why[1]
            )


def _who(first: object, last: object) -> Receivers | None:
    before, after = receivers(first), receivers(last)
    if before is None or after is None:
        return None
    return Receivers(after.engines, max(before.others_max, after.others_max))
