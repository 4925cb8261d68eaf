"""One pass, as questions to the node: all keys from the beginning to the end, then the names that were not among them.

Every question names one key, or none, so it works against anything that serves a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.capture.feed.scan import Questions, Scan
from engine.capture.feed.subscription import Subscription
from engine.capture.sources.scan.seen import Seen
from engine.capture.watch.sight import unix_ms_of
from engine.digests.names import Names
from engine.model import THE_BEGINNING_MS, Missed
from engine.redis.address import parse_url
from engine.redis.connection import PRIMARY, is_replica, pack
from engine.redis.errors import refusal, wrong_role
from engine.redis.eviction import QUESTIONS, may_evict

NAMES_AT_ONCE = 2_000
"""Names that one step walks over."""


class Sweep:
    """``number`` tells passes apart, and grows. ``names`` are those of keys whose deletion a route wants to know about
    (``is_named``), None if none does.
    """

    def __init__(
        self,
        subscription: Subscription,
        number: int,
        names: Names | None,
        is_named: Callable[[bytes], object] = lambda _key: True,
    ) -> None:
        self.number = number
        self.since_ms = 0
        """When it began, by the server's clock: whatever changed before is found once it is over."""
        self.is_over = False
        self.may_evict = True
        """Whether keys that are not found may have been evicted."""
        self.is_begun = False
        self.size = self.looked_at = self.there = 0
        """How many keys the node says that it has, how many were looked at, and how many were found."""
        self.gone = self.known = 0
        """How many names were not found, of how many."""
        self._subscription = subscription
        self._scan = Scan(subscription, Missed(THE_BEGINNING_MS), is_narrowed=False, stamps_strings=True)
        self._names, self._is_named = names, is_named
        self._seen: Seen | None = None
        self._last: bytes | None = None
        self._is_walking = False

    def begin(self) -> Questions[list[bytes]]:
        """Find out what the server is, and how large."""
        time, *replies = yield pack("TIME") + b"".join(QUESTIONS), 1 + len(QUESTIONS)
        if not isinstance(time, list):
            raise refusal(parse_url(self._subscription.redis.url), "report its time", str(time))
        self.since_ms = unix_ms_of(time)
        self.may_evict = may_evict(replies)
        yield from self._see_role()
        keys = yield from self._scan.begin()
        self.size = self._scan.size
        if self._names is not None:
            self._seen = Seen(self.size, self.number.to_bytes(8, "little"))
        self.is_begun = True
        return self._found(keys)

    def step(self) -> Questions[list[bytes]]:
        """Look at some keys, or for some names; return keys that are there. Raises `RedisError`, `NamesBroken`."""
        if self._is_walking:
            yield from self._walk()
            return []
        keys = yield from self._scan.step()
        self.looked_at = self._scan.looked_at
        if self._scan.is_over:
            # A node that was demoted meanwhile may lack what its successor has.
            yield from self._see_role()
            self._is_walking = self._names is not None
            self.is_over = not self._is_walking
        return self._found(keys)

    def _see_role(self) -> Questions[None]:
        (role,) = yield pack("ROLE"), 1
        if is_replica(role):
            raise wrong_role(parse_url(self._subscription.redis.url), PRIMARY)

    def _found(self, keys: list[bytes]) -> list[bytes]:
        self.there += len(keys)
        if self._names is not None and self._seen is not None:
            is_named = self._is_named
            named = [key for key in keys if is_named(key)]
            for key in named:
                self._seen.add(key)
            if named:
                self._names.found(named)
        return keys

    def _walk(self) -> Questions[None]:
        """Note which of the next names were not found, and whose keys are not there."""
        assert self._names is not None
        assert self._seen is not None
        names = self._names.after(self._last, NAMES_AT_ONCE)
        if not names:
            self.is_over = True
            return
        self._last = names[-1]
        # Names in slots that the node has by now, whoever had them before; other nodes look for the rest.
        owns, seen = self._subscription.feed.owns, self._seen
        ours = [name for name in names if owns(name)]
        self.known += len(ours)
        missing = [name for name in ours if name not in seen]
        gone = (yield from self._absent(missing)) if missing else []
        self._names.note_gone(gone, self.number)
        self.gone += len(gone)

    def _absent(self, names: Sequence[bytes]) -> Questions[list[bytes]]:
        """Return those of them that do not exist."""
        replies: list[Any] = yield b"".join(pack("EXISTS", name) for name in names), len(names)
        return [name for name, reply in zip(names, replies, strict=True) if reply == 0]
