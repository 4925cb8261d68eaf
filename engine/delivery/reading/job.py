"""Keys that one node is asked for: what is sent, and what its answers mean, step by step.

The event tells the likely type, so most keys cost one command and no question. A key of another type answers
``WRONGTYPE``, is asked for its type, and read again. Every question names one key: in a cluster a slot that is being
moved answers for each key by itself.

``TIME`` goes first in each pipeline, and a connection's commands run in order: a value was read after the moment that
is its version, never before it. In a cluster the node's configuration epoch is part of the version; it is asked for
last, and if it has changed, the pipeline is asked again.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from engine.clock import monotonic_ms
from engine.delivery.reading.asking import Asking, First, has_redirects
from engine.delivery.reading.connection import TooLarge
from engine.delivery.reading.gone import QUESTIONS
from engine.delivery.reading.questions import (
    EXISTS,
    EXPIRES_IN,
    KIND_OF_EVENT,
    TIME,
    TYPE,
    Fetched,
    ask,
    expiries_of,
    interpret,
    interpret_all,
)
from engine.delivery.reading.versions import SlotVersions, raised_us
from engine.errors import RedisClosed, RedisError, RedisUnreachable
from engine.redis.cluster.redirects import ASKING, LATER, LATER_WORDS, Redirect, redirect_of
from engine.redis.errors import lost, refusal

if TYPE_CHECKING:
    from engine.delivery.reading.node_reader import NodeReader

ROUNDS_MAX = 5
"""Read, ask for the type, read, ask, read: a key that changes its type faster will have an event of its own."""
EPOCHS_MAX = 5
"""How often in a row a node's epoch may have changed while it was read."""

CLUSTER_INFO = b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n"
_MY_EPOCH = "cluster_my_epoch:"
_NOT_HERE = -1

Key = tuple[bytes, str]
"""A key and the name of its newest event."""


@dataclass(slots=True)
class Wish:
    """What is to be known about keys, besides their values.

    With ``explained``: whether keys that are gone after other events than these were removed; changes are at most
    ``age_ms`` old. Reading stops once the bodies, from all nodes together, are longer than ``chars_left``. ``fields``
    are wanted of an entry of a stream, all if there are none.
    """

    include_expiry: bool = False
    explained: Container[str] | None = None
    age_ms: int = 0
    chars_left: int | None = None
    fields: frozenset[str] = frozenset()

    def is_enough(self, values: Sequence[Fetched]) -> bool:
        """Take in what was read; tell whether it is enough."""
        assert self.chars_left is not None
        self.chars_left -= sum([len(one.body) for one in values if one.body is not None])
        return self.chars_left < 0


class Job:
    """The reads of some keys at one node; `step` until it is over.

    ``values`` are those of the first keys, None for a key that is to be asked for elsewhere (``redirects``: its index,
    and the version that its slot's owner was asked at). ``error`` says why there are no more.

    ``indexes`` are the caller's. With ``asked_versions``, the node is asked for keys that it does not own yet, with
    their owner's leave: their versions are those of their owner. With ``first`` its first pipeline was already sent.
    """

    def __init__(
        self,
        reader: NodeReader,
        keys: Sequence[Key],
        wish: Wish,
        indexes: Sequence[int] = (),
        slots: Sequence[int] = (),
        slot_versions: SlotVersions | None = None,
        *,
        asked_versions: Sequence[int] = (),
        first: First | None = None,
    ) -> None:
        self.reader = reader
        self.keys = keys
        self.indexes = indexes
        self.slots = slots
        self.values: list[Fetched | None] = []
        self.redirects: list[tuple[int, Redirect, int]] = []
        self.error: RedisError | None = None
        self.is_over = False
        self.version = 0
        """The newest that was given out."""
        self.heard_ms = monotonic_ms()
        """When the node last did something."""
        self._wish = wish
        self._slot_versions = slot_versions if slots and not asked_versions else None
        self._least: Sequence[int] = ()
        """By key: the least epoch that its version counts; nothing if the node's own suffices."""
        if self._slot_versions is not None:
            self._least = self._slot_versions.least(slots, reader.node.id)
        self._epoch = 0
        """The node's epoch before."""
        self._asked_versions = asked_versions
        self._is_redirected = False
        self._asking = Asking(reader, first)
        self._steps = self._run()

    def step(self) -> bool:
        """Do what can be done now; return True when it is over. Never raises `RedisError`."""
        self.heard_ms = monotonic_ms()
        try:
            next(self._steps)
        except StopIteration:
            self.is_over = True
        except RedisError as error:
            self.error, self.is_over = error, True
        except BaseException:
            # Replies may be left in it, and would be taken for those of the next pipeline.
            self.reader.close()
            raise
        return self.is_over

    def give_up(self) -> None:
        """End it: the node has been silent for too long."""
        self._steps.close()
        timeout_s = self.reader.read_timeout_ms / 1_000
        self.error = lost(self.reader.address, TimeoutError("timed out"), timeout_s, "see redis.read_timeout_ms")
        self.is_over = True

    def found(self) -> Sequence[Fetched]:
        """Return the values of the first keys, as far as they were read here; none before it is over."""
        if not self.is_over:
            return ()
        whole = self.redirects[0][0] if self.redirects else len(self.values)
        return [value for value in self.values[:whole] if value is not None]

    def _run(self) -> Generator[None, None, None]:
        reader, wish = self.reader, self._wish
        while len(self.values) < len(self.keys):
            keys = self.keys[len(self.values) : len(self.values) + reader.keys_now]
            try:
                values = yield from self._read(keys)
            except TooLarge:
                # What is left is asked for on another connection.
                self.values += reader.too_large(keys)
                return
            except RedisClosed as error:
                self.values += reader.closed(keys, error)
                return
            reader.grow(keys)
            if wish.explained is not None and not self._asked_versions:
                yield from self._explain(keys, values, wish.explained)
            if self._least or self._asked_versions:
                self._set_versions(values)
            self.values += values if not self._is_redirected else self._without_redirects(values)
            if wish.chars_left is not None and wish.is_enough(values):
                return

    def _set_versions(self, values: Sequence[Fetched]) -> None:
        """Give values the versions of their slots' owners."""
        at = len(self.values)
        for value, least in zip(values, self._least[at:], strict=False):
            value.version += raised_us(self._epoch, least)
        for value, version in zip(values, self._asked_versions[at:], strict=False):
            value.version = version

    def _without_redirects(self, values: list[Fetched]) -> Sequence[Fetched | None]:
        """Return the values, None for those of keys that are to be asked for elsewhere."""
        kept: list[Fetched | None] = []
        for value in values:
            redirect = redirect_of(value.error, self.reader.host) if value.passes else None
            if redirect is not None:
                self.redirects.append((len(self.values) + len(kept), redirect, value.version))
            kept.append(value if redirect is None else None)
        return kept

    def _read(self, keys: Sequence[Key]) -> Generator[None, None, list[Fetched]]:
        names, kinds = [key for key, _ in keys], [KIND_OF_EVENT[event] for _, event in keys]
        # First, so that no value is older than its expiry: what changes in between has an event of its own.
        expiries = (yield from self._expiries(names)) if self._wish.include_expiry else ()
        replies, version = yield from self._ask(names, kinds)
        fetched, again = interpret_all(names, kinds, replies, version, self._wish.fields)
        if again:
            yield from self._settle(fetched, again)
        for value, expires_at_ms in zip(fetched, expiries, strict=False):
            if expires_at_ms != _NOT_HERE:
                value.expires_at_ms = expires_at_ms
            elif not value.error:
                # It appeared, or vanished, between the two.
                value.error, value.passes = LATER_WORDS[0], True
        return fetched

    def _expiries(self, names: list[bytes]) -> Generator[None, None, list[int]]:
        """Return when each key expires; servers before Redis 7 are asked for the remaining time."""
        reader = self.reader
        for question in dict.fromkeys((reader.expiry_question, EXPIRES_IN)):
            replies, _ = yield from self._ask(names, [question] * len(names))
            expiries = expiries_of(replies, question, reader.time_us // 1_000)
            if expiries is not None:
                reader.expiry_question = question
                if self._is_redirected:
                    return [
                        _NOT_HERE if isinstance(reply, hiredis.ReplyError) else expires_at_ms
                        for reply, expires_at_ms in zip(replies, expiries, strict=True)
                    ]
                return expiries
        raise refusal(reader.address, "report when keys expire", str(replies[0]))

    def _settle(self, fetched: list[Fetched], again: list[tuple[int, str]]) -> Generator[None, None, None]:
        """Keep asking for those that the first round left open, until none is left, or the rounds are over."""
        for _ in range(ROUNDS_MAX - 1):
            pending, again = again, []
            names, kinds = [fetched[index].key for index, _ in pending], [kind for _, kind in pending]
            replies, version = yield from self._ask(names, kinds)
            for (index, kind), reply in zip(pending, replies, strict=True):
                before = fetched[index]
                answer = interpret(before.key, kind, reply, version)
                if isinstance(answer, str):
                    again.append((index, answer))
                    before.version = version
                    before.retyped = before.retyped or answer == TYPE
                    continue
                if kind == EXISTS:
                    # The previous round saw that it was empty: that round's version counts.
                    answer.version = before.version
                answer.retyped = before.retyped
                fetched[index] = answer
            if not again:
                return
        for index, _ in again:
            fetched[index].error = "its type changed faster than it could be read"

    def _explain(
        self, keys: Sequence[Key], values: Sequence[Fetched], explained: Container[str]
    ) -> Generator[None, None, None]:
        """Mark keys that are gone as removed, if they certainly were."""
        gone = [
            value
            for (_, event), value in zip(keys, values, strict=False)
            if value.type == "none" and not value.error and event not in explained
        ]
        if not gone:
            return
        replies = yield from self._asking.replies(b"".join(QUESTIONS), len(QUESTIONS))
        reader = self.reader
        is_taken_away = reader.found_gone.is_taken_away(len(gone), self._wish.age_ms, replies, reader.time_us)
        for value in gone:
            value.is_taken_away = is_taken_away

    def _ask(self, keys: list[bytes], kinds: list[str]) -> Generator[None, None, tuple[list[Any], int]]:
        """Return the replies to these questions, and the version of what they say."""
        reader = self.reader
        count = len(keys)
        if self._asked_versions:
            questions = b"".join(ASKING + ask((key,), (kind,)) for key, kind in zip(keys, kinds, strict=True))
            replies = yield from self._asking.replies(TIME + questions, 1 + 2 * count)
            version = self._version_of(replies[0])
            replies = replies[2::2]
        elif not reader.is_cluster:
            replies = yield from self._asking.replies_in_role(TIME + ask(keys, kinds), 1 + count)
            version = self._version_of(replies.pop(0))
        else:
            replies, version = yield from self._ask_with_epoch(ask(keys, kinds), count)
        if hiredis.ReplyError in map(type, replies):
            self._is_redirected |= has_redirects(reader, replies)
        return replies, version

    def _ask_with_epoch(self, questions: bytes, count: int) -> Generator[None, None, tuple[list[Any], int]]:
        reader = self.reader
        for _ in range(EPOCHS_MAX):
            before = reader.epoch
            head = TIME if before is not None else CLUSTER_INFO + TIME
            replies = yield from self._asking.replies(head + questions + CLUSTER_INFO, count + 2 + (before is None))
            if before is None:
                before = self._epoch_in(replies.pop(0))
            reader.epoch = self._epoch_in(replies.pop())
            told = replies.pop(0)
            if before == reader.epoch:
                return replies, self._version_of(told)
        raise RedisUnreachable(f"the epoch of {reader.address} keeps changing", hint="its cluster is being changed")

    def _version_of(self, told: Any) -> int:
        reader = self.reader
        if isinstance(told, hiredis.ReplyError):
            raise refusal(reader.address, "report its time, which orders the values", str(told))
        reader.take_time(told)
        if self._asked_versions:
            return 0
        floor, known = 0, self._slot_versions
        if known is not None:
            self._epoch = reader.epoch or 0
            floor = known.floor(self.slots, self._least, self._epoch)
        self.version = reader.version_at(reader.time_us, floor)
        return self.version

    def note_versions(self) -> None:
        """At the end, note what was given out for which slots: for those that this node owns."""
        if self._slot_versions is None:
            return
        elsewhere = {place for place, redirect, _ in self.redirects if redirect is LATER or redirect.is_moved}
        given, node_id, version, epoch = self._slot_versions.given, self.reader.node.id, self.version, self._epoch
        for place, slot in enumerate(self.slots[: len(self.values)]):
            if place not in elsewhere:
                given(slot, node_id, version, epoch, self._least[place] if self._least else 0)

    def _epoch_in(self, info: Any) -> int:
        if isinstance(info, hiredis.ReplyError):
            raise refusal(self.reader.address, "report its epoch, which orders the values", str(info))
        at = info.find(_MY_EPOCH) + len(_MY_EPOCH)
        return int(info[at : info.find("\r", at)])
