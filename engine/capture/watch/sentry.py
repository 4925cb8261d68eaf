"""What happens to a server besides its events: flags that are switched, keyspaces that are flushed, forks, restarts.

No notification reports these, so a second connection, beside the subscription, looks at the server's own figures.
``CONFIG SET`` and ``FLUSHALL`` are found by their count of calls (``INFO commandstats``): flags that were switched off
and on again between two looks leave no other trace. A dataset that was replaced by replication shows in
``INFO replication``, and a full synchronization in a new connection to the primary. A flush of another database is told
from one of ours by a watched key (`engine.capture.watch.tripwire`).

**When a watermark counts.** That a pong has come proves that all messages before it were read, not that a message was
sent for every change. So a watermark counts only when a look has followed its pong. Whatever that look finds happened
after the previous look, hence after the watermark, and is a gap that begins there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hiredis

from engine.capture.notifications import SETTING
from engine.capture.watch.keepsake import KEY, Keepsake, Keepsakes
from engine.capture.watch.membership import QUESTION as MEMBERSHIP
from engine.capture.watch.membership import read_figures
from engine.capture.watch.sight import QUESTIONS, Sight, flushes_in, read
from engine.capture.watch.tripwire import Tripwire
from engine.redis.connection import NOTHING, RespConnection, pack
from engine.redis.errors import not_redis
from engine.routing.databases import Databases

_COMMANDS = tuple(pack(*question) for question in QUESTIONS)
_OF_CLUSTERS = pack(*MEMBERSHIP)


class Sentry:
    """The second connection of a subscription; never blocks after it was opened. Raises `RedisError` when it breaks."""

    def __init__(
        self,
        connection: RespConnection,
        keepsake_key: bytes = KEY,
        *,
        is_clustered: bool = False,
        databases: Databases | None = None,
    ) -> None:
        self.connection = connection
        self._databases = databases
        """If several are captured, a flush of any counts as ours: a key to watch can only be in one."""
        self._keepsake_key = keepsake_key
        self._commands = (*_COMMANDS, _OF_CLUSTERS) if is_clustered else _COMMANDS
        self._replies: list[Any] = []
        self._expected = 0
        self._ignored = 0
        self._others: list[Any] = []
        self._keepsake: Keepsake | Keepsakes | None = None
        self._tripwire: Tripwire | None = None
        self._tried: Sight | None = None
        """A look that waits for the tripwire's answer."""
        self._server_ms = 0

    @classmethod
    def begin(
        cls,
        connection: RespConnection,
        keepsake_key: bytes = KEY,
        *,
        is_clustered: bool = False,
        databases: Databases | None = None,
    ) -> tuple[Sentry, Sight]:
        """Take the first look over this connection, which waits for it, and closes the connection if it fails."""
        sentry = cls(connection, keepsake_key, is_clustered=is_clustered, databases=databases)
        try:
            sight = sentry._look()
            if sight.is_blind:
                # If the counts are hidden, a key is looked at from the first look on.
                sight = sentry._look()
            if databases is None:
                sight = sentry._watch(sight)
        except BaseException:
            connection.close()
            raise
        return sentry, sight

    def _look(self) -> Sight:
        questions = self._questions()
        return self._sight(self.connection.pipeline(b"".join(questions), len(questions)))

    def _watch(self, sight: Sight) -> Sight:
        """Watch a key: the first round finds one that is there."""
        self._tripwire = Tripwire(flushes_in)
        for _ in range(2):
            questions = self._tripwire.questions()
            sight = _tried(sight, self._tripwire, self.connection.pipeline(b"".join(questions), len(questions)))
        return sight

    def is_asking(self) -> bool:
        """Tell whether a look is under way."""
        return self._expected > 0

    def ask(self) -> None:
        """Begin a look, unless one is under way."""
        if not self._expected:
            self._send(self._questions())

    def _send(self, questions: tuple[bytes, ...]) -> None:
        self._expected = len(questions)
        self.connection.send(b"".join(questions))

    def _questions(self) -> tuple[bytes, ...]:
        return (*self._commands, *(self._keepsake.questions(self._server_ms) if self._keepsake else ()))

    def _sight(self, replies: list[Any]) -> Sight:
        asked = len(self._commands)
        sight = read(self.connection.address, replies[: len(QUESTIONS)])
        self._server_ms = sight.server_ms
        if asked > len(QUESTIONS):
            sight = replace(sight, cluster=read_figures(replies[len(QUESTIONS)]))
        if self._keepsake is not None:
            sight = replace(sight, keepsake=self._keepsake.take(replies[asked:]))
        elif sight.is_blind:
            key, databases = self._keepsake_key, self._databases
            self._keepsake = Keepsake(key) if databases is None else Keepsakes(key, databases)
        return sight

    def set_flags(self, flags: str) -> None:
        """Set the flags; the server's answer shows in the next look."""
        self.tell(pack("CONFIG", "SET", SETTING, flags), 1)

    def tell(self, commands: bytes, count: int) -> None:
        """Send packed commands while no look is under way; `take_others` has their replies after the next look."""
        assert not self._expected
        self._ignored += count
        self.connection.send(commands)

    def take_others(self) -> list[Any]:
        """Return the server's answers to these commands."""
        others, self._others = self._others, []
        return others

    def poll(self) -> Sight | None:
        """Return what the look found, once it is over."""
        if not self._expected and not self._ignored:
            return None
        self.connection.receive_available()
        try:
            while (reply := self.connection.reply()) is not NOTHING:
                # Replies arrive in order, and nothing else is sent while a look is under way.
                if self._ignored:
                    self._ignored -= 1
                    self._others.append(reply)
                else:
                    self._replies.append(reply)
        except hiredis.ProtocolError as error:
            raise not_redis(self.connection.address, error) from error
        if not self._expected or len(self._replies) < self._expected:
            return None
        replies, self._replies, self._expected = self._replies, [], 0
        tripwire = self._tripwire
        if self._tried is not None and tripwire is not None:
            sight, self._tried = self._tried, None
            return _tried(sight, tripwire, replies)
        sight = self._sight(replies)
        if tripwire is None:
            return sight
        if tripwire.wants(sight.flushes):
            self._tried = sight
            self._send(tripwire.questions())
            return None
        return replace(sight, replacements=sight.replacements - tripwire.others)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _tried(sight: Sight, tripwire: Tripwire, replies: list[Any]) -> Sight:
    """Return a look without the flushes that were of other databases, as of the tripwire's trial."""
    flushes = tripwire.take(replies)
    if sight.replacements < 0:
        return sight
    later = max(0, flushes - sight.flushes)
    return replace(sight, replacements=sight.replacements + later - tripwire.others)
