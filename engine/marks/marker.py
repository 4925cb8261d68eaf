"""Publishes marks, and tells which of them can't be lost any more.

A mark is a message: a subscriber that is killed, a connection that breaks and a dirty set that is full lose it, and the
repair that follows does not find a key by it. Two things see to that:

- **A key that is there is touched first.** So it counts as used in whatever gap loses its mark, and the narrowed repair
  of that gap finds it. ``TOUCH`` counts for clients with ``NO-TOUCH`` as well.
- **Of a key that is gone nothing is left to find.** Its mark is sure only once the engine's watermark has passed the
  moment of publication without any gap since; after a gap it is published again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

import hiredis

from engine.clock import monotonic_ms
from engine.errors import EngineError
from engine.marks.receivers import Receivers, receivers
from engine.marks.standing import Standing
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.routing.byte_classes import channel_prefix
from engine.routing.events import REPAIR

KEYS_AT_ONCE = 500
LOOK_S = 0.2
AGAIN_S_MAX = 10.0
SETTLED_MS_MAX = 60_000
"""How long a mark's settling is waited for."""

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
    """A key, and the event by which the engine is to know it: `REPAIR` or `REPAIR_GONE`."""

    key: bytes
    event: str


@dataclass(slots=True)
class _Published:
    """One publication: which marks are sure already, which nobody heard, and when it was (the server's clock)."""

    sure: set[int]
    unheard: set[int]
    moment_ms: int


class _Wait(Enum):
    SETTLED = auto()
    INTERRUPTED = auto()
    GIVEN_UP = auto()


class Marker:
    """Marks keys over one connection. ``problem`` is why the newest marks were not all sure, None where they were.

    ``standing`` tells of the engine that runs here. Raises `RedisError` where the connection breaks.
    """

    def __init__(
        self,
        connection: RespConnection,
        database: int,
        standing: Callable[[], Standing | None],
        *,
        settled_ms_max: int = SETTLED_MS_MAX,
    ) -> None:
        self.problem: EngineError | None = None
        self.connection = connection
        self._prefix = channel_prefix(database)
        self._standing = standing
        self._settled_ms_max = settled_ms_max
        # Where clients may not name themselves, the engine's have no name either.
        self._has_name = bool(connection.call("CLIENT", "GETNAME"))

    def mark(self, marks: Sequence[Mark], pause: Callable[[int], None] = lambda keys: None) -> list[bool]:
        """Publish the marks; return which of them the engine can't lose any more. ``pause`` is told of each part."""
        self.problem = None
        deadline_ms = monotonic_ms() + self._settled_ms_max
        sure: set[int] = set()
        left, rounds = list(range(len(marks))), 0
        while left:
            if rounds:
                # What loses marks may go on for a while: each round waits longer, so that it is not flooded too.
                time.sleep(min(AGAIN_S_MAX, LOOK_S * 2**rounds))
            before = self._standing()
            published = self._publish(marks, left, pause)
            sure |= published.sure
            lost = set() if rounds else published.unheard
            if lost:
                self._complain_unheard(len(lost), len(marks))
            left, rounds = [index for index in left if index not in sure | lost], rounds + 1
            here = [index for index in left if before is not None and before.part.owns(marks[index].key)]
            if len(here) < len(left):
                self._complain_unsettled(len(left) - len(here), _ELSEWHERE)
            left = here
            if before is None or not left:
                break
            outcome = self._wait(before, published.moment_ms, deadline_ms)
            if outcome is _Wait.GIVEN_UP:
                self._complain_unsettled(len(left), _STANDS_STILL)
                break
            if outcome is _Wait.SETTLED:
                # A shard whose subscriber was being replaced has heard nothing.
                sure.update(index for index in left if index not in published.unheard)
                left = [index for index in left if index in published.unheard]
        return [index in sure for index in range(len(marks))]

    def _publish(self, marks: Sequence[Mark], left: Sequence[int], pause: Callable[[int], None]) -> _Published:
        sure: set[int] = set()
        unheard: set[int] = set()
        for start in range(0, len(left), KEYS_AT_ONCE):
            part = left[start : start + KEYS_AT_ONCE]
            pause(len(part))
            # Who is subscribed is asked before and after: a monitor may go, and a subscriber be cut off, in between.
            commands = [_CLIENTS]
            for index in part:
                key, event = marks[index]
                commands += [pack("TOUCH", key), pack("PUBLISH", self._prefix + key, event)]
            commands += [_CLIENTS, pack("TIME")]
            first, *replies, last, moment = self.connection.pipeline(b"".join(commands), len(commands))
            self._check(replies[1::2], moment)
            who = self._who(first, last)
            for index, touched, heard in zip(part, replies[::2], replies[1::2], strict=True):
                if heard == 0 or (who is not None and not who.engines):
                    unheard.add(index)
                elif who is not None and heard > who.others_max and touched == 1 and marks[index].event == REPAIR:
                    sure.add(index)
        return _Published(sure, unheard, int(moment[0]) * 1_000 + int(moment[1]) // 1_000)

    def _who(self, first: object, last: object) -> Receivers | None:
        before, after = receivers(first), receivers(last)
        if before is None or after is None or not self._has_name:
            return None
        return Receivers(after.engines, max(before.others_max, after.others_max))

    def _check(self, heard: Iterable[Any], moment: Any) -> None:
        for what, reply in (*(("publish", reply) for reply in heard), ("tell its time", moment)):
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(self.connection.address, what, str(reply))

    def _wait(self, before: Standing, moment_ms: int, deadline_ms: int) -> _Wait:
        """Wait until the watermark has passed this moment, or something may have been lost, or for too long."""
        while monotonic_ms() < deadline_ms:
            time.sleep(LOOK_S)
            now = self._standing()
            if now is not None and not now.has_heard_all_since(before):
                return _Wait.INTERRUPTED
            if now is not None and now.settled_until_ms > moment_ms:
                return _Wait.SETTLED
        return _Wait.GIVEN_UP

    def _complain_unheard(self, count: int, total: int) -> None:
        self.problem = NotListening(
            f"no engine at {self.connection.address} heard of {count} of {total} keys: none runs, or one of its "
            "subscribers is reconnecting",
            hint="see engine status, then run this again: nothing is lost meanwhile",
        )

    def _complain_unsettled(self, count: int, why: tuple[str, str]) -> None:
        if self.problem is None:
            self.problem = NotSettled(f"{count} keys were sent, and are not known to be settled: {why[0]}", hint=why[1])
