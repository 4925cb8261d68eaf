"""What is asked of a server about some streams, one pipeline per round, and what its replies mean.

Acknowledgements and claims come first, then a read that waits at the server for something new, or a look after it. All
use one connection, in order, so a look shows the moment after everything that was received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import hiredis

from engine.capture.sources.stream import commands
from engine.capture.sources.stream.desk import Desk
from engine.capture.sources.stream.followed import THE_START, Followed
from engine.capture.sources.stream.histories import history_of
from engine.capture.sources.stream.standing import last_id_of, standing_of
from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.connection import pack
from engine.redis.errors import refusal

log = get_logger(__name__)

BLOCK_MS = 250
"""How long a read waits at the server: what is settled meanwhile is acknowledged after it."""
LOOK_MS = 1_000
CLAIM_MS_MIN, CLAIM_MS_MAX = 1_000, 30_000

Handler = Callable[[Any], None]
Asked = list[tuple[bytes, Handler]]

_ELSEWHERE = ("MOVED ", "ASK ", "CLUSTERDOWN ", "TRYAGAIN ", "CROSSSLOT ")
_NO_GROUP = ("NOGROUP ", "UNBLOCKED ")
"""The group, or the stream, no longer exists; it may have been removed while a read was waiting."""


class Rounds:
    """The streams of one connection; ``address`` is where it leads, for error texts."""

    def __init__(self, streams: Sequence[Followed], desk: Desk, address: object) -> None:
        self.caught_up_ms = 0
        """Everything that was in the streams at this moment (the server's clock) was received; 0 until then."""
        self.ahead_ms = 0
        """How far the server's clock is ahead of this host's monotonic one; 0 until it was asked."""
        self._streams, self._desk, self._address = streams, desk, address
        self._capture, self._group, self._consumer = desk.capture, desk.capture.consumer_group, desk.consumer
        self._look_due_ms = self._claim_due_ms = self._asked_ms = self._heard_ms = 0
        self._count = 0
        self._claims = True

    @property
    def is_open(self) -> bool:
        """Tell whether all groups are there."""
        return all(stream.has_group for stream in self._streams)

    def begin(self, moment_ms: int, room: int) -> Asked:
        """Return the next pipeline, each command with what takes its reply; nothing if there is nothing to ask.

        ``room`` is how many entries of each stream may be read.
        """
        self._asked_ms = moment_ms
        if not self.is_open:
            return list(self._opening())
        # First, because what a look said is true until the next read.
        asked = [self._mend(one) for one in self._streams if one.is_miscounted]
        asked += self._acknowledgements()
        if room > 0 and self._claims and moment_ms >= self._claim_due_ms:
            asked += self._claim(moment_ms, room)
        is_looking = moment_ms >= self._look_due_ms
        if room > 0:
            # A look says most if everything was read just before it.
            asked.append(self._read(room, 0 if is_looking else BLOCK_MS))
        if is_looking:
            self._look_due_ms = moment_ms + LOOK_MS
            asked += [(pack("TIME"), self._time), (pack("INFO", "replication"), self._served)]
            asked += map(self._look, self._streams)
        return asked

    def _opening(self) -> Iterator[tuple[bytes, Handler]]:
        for stream in self._streams:
            if stream.make_at:
                yield commands.create(stream.name, self._group, stream.make_at), partial(self._created, stream)
            yield self._look(stream)

    def hear(self, asked: Asked, replies: Sequence[Any], moment_ms: int) -> None:
        """Take in the replies; raise `RedisError`."""
        self._heard_ms = moment_ms
        for (_, handler), reply in zip(asked, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_ELSEWHERE):
                raise RedisUnreachable(
                    f"{self._address} does not have the streams: {reply}", hint="the engine looks for them"
                )
            handler(reply)

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until a look is due."""
        return max(1, self._look_due_ms - moment_ms)

    def _refused(self, what: str, stream: Followed, reply: object) -> RedisError:
        name, text = stream.name.decode(), str(reply)
        if text.startswith("WRONGTYPE"):
            return RedisRefused(
                f"{self._address}: the key {name}, which capture.streams names, is not a stream",
                hint="name another, or rename the key",
            )
        return refusal(self._address, f"{what} the stream {name}", text)

    # Looks, and groups that are missing

    def _look(self, stream: Followed) -> tuple[bytes, Handler]:
        return commands.look(stream.name), partial(self._looked, stream)

    def _looked(self, stream: Followed, reply: Any) -> None:
        standing, last = None, None
        if not isinstance(reply, hiredis.ReplyError):
            standing, last = standing_of(reply, self._group.encode(), self._consumer.encode()), last_id_of(reply)
        elif "no such key" not in str(reply):
            raise self._refused("look at", stream, reply)
        if standing is not None:
            stream.has_group = True
            self._desk.looked(stream, standing)
            return
        stream.lose_group()
        stream.make_at = self._desk.place_of_group(stream, last)

    def _created(self, stream: Followed, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("BUSYGROUP"):
            raise self._refused(f"make the group {self._group} of", stream, reply)
        stream.make_at = b""

    def _mend(self, stream: Followed) -> tuple[bytes, Handler]:
        """Return what sets the group's own count right: Redis 7.0 counts removed entries as unread forever."""
        standing = stream.standing
        assert standing is not None
        stream.is_miscounted = False
        packed = commands.count(stream.name, self._group, standing.delivered, standing.added or 0)
        return packed, partial(self._mended, stream)

    def _mended(self, stream: Followed, reply: Any) -> None:
        stream.may_mend = not isinstance(reply, hiredis.ReplyError)

    def _time(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self._address, "report its time", str(reply))
        # By the time of reading, so that no moment is mistaken for a later one.
        self.ahead_ms = int(reply[0]) * 1_000 + int(reply[1]) // 1_000 - self._heard_ms

    def _served(self, reply: Any) -> None:
        history = history_of(reply)
        for stream in self._streams:
            self._desk.histories.look(stream, history)

    # Acknowledgements

    def _acknowledgements(self) -> Iterator[tuple[bytes, Handler]]:
        for stream in self._streams:
            if stream.sets_back:
                stream.sets_back = False
                yield commands.set_back(stream.name, self._group), partial(self._changed, stream)
            while stream.acks:
                ids, stream.acks = stream.acks[: commands.ACKS_AT_ONCE], stream.acks[commands.ACKS_AT_ONCE :]
                yield (
                    commands.acknowledge(stream.name, self._group, ids),
                    partial(self._acknowledged, stream, len(ids)),
                )
                if self._capture.after_ack == "delete":
                    yield commands.delete(stream.name, ids), partial(self._changed, stream)
            if self._capture.after_ack == "trim" and stream.trim_to:
                to, stream.trim_to = stream.trim_to, b""
                yield commands.trim(stream.name, to), partial(self._changed, stream)

    def _acknowledged(self, stream: Followed, count: int, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise self._refused("acknowledge entries of", stream, reply)
        self._desk.acknowledged(stream, count)
        if not self._desk.ledger.count:
            # Everything up to here is settled, which is worth knowing.
            self._look_due_ms = 0

    def _changed(self, stream: Followed, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise self._refused("change", stream, reply)

    # Entries that others have left

    def _claim(self, moment_ms: int, room: int) -> Asked:
        idle_ms = self._capture.claim_idle_ms
        self._claim_due_ms = moment_ms + min(max(idle_ms // 2, CLAIM_MS_MIN), CLAIM_MS_MAX)
        return [
            (
                commands.claim(one.name, self._group, self._consumer, idle_ms, one.claim_from, room),
                partial(self._claimed, one),
            )
            for one in self._streams
            if one.cursor is None
        ]

    def _claimed(self, stream: Followed, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if "unknown command" in str(reply).lower():
                self._claims = False
                log.warning("no_claims", stream=stream.name.decode(), hint="XAUTOCLAIM needs Redis 6.2 or Valkey")
                return
            if str(reply).startswith(_NO_GROUP):
                stream.has_group = False
                return
            raise self._refused("claim entries of", stream, reply)
        stream.claim_from = reply[0]
        if stream.claim_from != THE_START:
            self._claim_due_ms = 0
        if entries := [entry for entry in reply[1] if entry is not None]:
            self._desk.claimed(stream, entries)

    # Reads

    def _read(self, room: int, block_ms: int) -> tuple[bytes, Handler]:
        self._count = room
        is_new = all(stream.cursor is None for stream in self._streams)
        places = [(one.name, b">" if one.cursor is None else one.cursor) for one in self._streams]
        packed = commands.read(self._group, self._consumer, room, block_ms if is_new else 0, places)
        return packed, partial(self._heard, {one.name: one for one in self._streams}, self._asked_ms)

    def _heard(self, streams: dict[bytes, Followed], asked_ms: int, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(_NO_GROUP):
                for stream in self._streams:
                    stream.has_group = False
                return
            raise self._refused("read", self._streams[0], reply)
        is_all = all(stream.cursor is None for stream in self._streams)
        for name, entries in reply or ():
            stream = streams[name]
            if stream.cursor is None:
                is_all = is_all and len(entries) < self._count
                self._desk.taken(stream, entries)
            elif entries:
                stream.cursor = entries[-1][0]
                self._desk.pending(stream, entries)
            else:
                self._desk.pending_read(stream)
                stream.cursor, stream.known = None, ()
        if is_all and self.ahead_ms:
            self.caught_up_ms = asked_ms + self.ahead_ms
