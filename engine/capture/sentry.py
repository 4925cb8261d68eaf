"""What happens to a server besides its events: flags that are switched, keyspaces that are flushed, forks, restarts.

No notification tells of these, so a second connection looks at the server's own figures, beside the subscription.
``CONFIG SET`` and ``FLUSHALL`` are found by their count of calls (``INFO commandstats``): flags that were switched off
and on again between two looks leave no other trace.

**When a watermark counts.** That a pong has come proves that all messages before it were read, not that a message was
sent for every change. So a watermark counts only when a look *after* its pong found nothing changed since the look
before it.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import hiredis

from engine.capture.notifications import SETTING
from engine.config import RedisSettings
from engine.redis.connection import NOTHING, RespConnection, pack
from engine.redis.errors import not_redis, refusal
from engine.routing.routes import merge_flags

_QUESTIONS = (
    ("TIME",),
    ("CONFIG", "GET", SETTING),
    ("INFO", "server"),
    ("INFO", "persistence"),
    ("INFO", "stats"),
    ("INFO", "commandstats"),
)
_COMMANDS = b"".join(pack(*question) for question in _QUESTIONS)
_CONFIG_SETS = re.compile(rb"cmdstat_config\|set:calls=(\d+)")
_FLUSHES = re.compile(rb"cmdstat_(?:flushall|flushdb|swapdb):calls=(\d+)")
_RUN_ID = re.compile(rb"run_id:(\w+)")
_MARKS = re.compile(rb"(?:total_forks|expired_fields|expired_subkeys):\d+")
_CHILDREN = re.compile(rb"(?:rdb_bgsave|aof_rewrite|module_fork)_in_progress:1")


@dataclass(frozen=True, slots=True)
class Sight:
    """One look. ``flags`` is None, and a count −1, where the server does not tell.

    ``mark`` is equal in two looks only if in between every change of a key has reset its idle time: the same process,
    no child that saves or rewrites (while one runs, nothing is touched), no expiry of fields. 0 where that is unknown.
    """

    server_ms: int
    flags: str | None = None
    run_id: bytes = b""
    config_sets: int = -1
    flushes: int = -1
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What is different between two looks; ``is_deaf`` while events that are needed are not sent."""

    reasons: tuple[str, ...] = ()
    is_deaf: bool = False


def compare(before: Sight, now: Sight, needed_flags: str) -> Change:
    """Return what happened between two looks that events do not tell."""
    reasons: list[str] = []
    is_deaf = now.flags is not None and merge_flags(now.flags, needed_flags) != now.flags
    if is_deaf:
        reasons.append("the server's notification flags were taken away")
    elif now.config_sets != before.config_sets or now.flags != before.flags:
        reasons.append("the server's settings were changed, and its notification flags may have been off")
    if now.flushes != before.flushes:
        reasons.append("the keyspace was flushed or swapped")
    if now.run_id != before.run_id:
        reasons.append("another server answers")
    return Change(tuple(reasons), is_deaf)


class Sentry:
    """The second connection of a subscription; never blocks after it was opened. Raises `RedisError` when it breaks."""

    def __init__(self, connection: RespConnection) -> None:
        self.connection = connection
        self._replies: list[Any] = []
        self._expected = 0
        self._ignored = 0
        self._others: list[Any] = []

    @classmethod
    def open(cls, redis: RedisSettings, name: str, database: int) -> tuple[Sentry, Sight]:
        """Connect, and take the first look."""
        connection = RespConnection.open(redis, name=name, protocol=2, database=database)
        try:
            sight = _sight(connection, connection.pipeline(_COMMANDS, len(_QUESTIONS)))
        except BaseException:
            connection.close()
            raise
        return cls(connection), sight

    def is_asking(self) -> bool:
        """Tell whether a look is under way."""
        return self._expected > 0

    def ask(self) -> None:
        """Begin a look, unless one is under way."""
        if not self._expected:
            self._expected = len(_QUESTIONS)
            self.connection.send(_COMMANDS)

    def set_flags(self, flags: str) -> None:
        """Set the flags; what the server says to it shows in the next look."""
        self.tell(pack("CONFIG", "SET", SETTING, flags), 1)

    def tell(self, commands: bytes, count: int) -> None:
        """Send packed commands while no look is under way; `take_others` has their replies after the next look."""
        assert not self._expected
        self._ignored += count
        self.connection.send(commands)

    def take_others(self) -> list[Any]:
        """Return what the server said to what it was told."""
        others, self._others = self._others, []
        return others

    def poll(self) -> Sight | None:
        """Return what the look found, once it is over."""
        if not self._expected and not self._ignored:
            return None
        self.connection.receive_available()
        try:
            while (reply := self.connection.reply()) is not NOTHING:
                # Replies come in order, and nothing is told while a look is under way.
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
        return _sight(self.connection, replies)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _sight(connection: RespConnection, replies: list[Any]) -> Sight:
    time, config, server, persistence, stats, commands = replies
    if isinstance(time, hiredis.ReplyError):
        raise refusal(connection.address, "tell its time", str(time))
    server_ms = int(time[0]) * 1_000 + int(time[1]) // 1_000
    flags = config[1].decode("ascii", "replace") if isinstance(config, list) and len(config) == 2 else None
    run_id = _RUN_ID.search(server) if isinstance(server, bytes) else None
    counts = isinstance(commands, bytes)
    # Redis before 7 counts CONFIG as a whole, so also our own looks.
    has_subcommands = counts and b"cmdstat_config:" not in commands
    return Sight(
        server_ms,
        flags,
        run_id[1] if run_id else b"",
        sum(map(int, _CONFIG_SETS.findall(commands))) if has_subcommands else -1,
        sum(map(int, _FLUSHES.findall(commands))) if counts else -1,
        _mark(run_id, persistence, stats),
    )


def _mark(run_id: re.Match[bytes] | None, persistence: object, stats: object) -> int:
    if run_id is None or not isinstance(persistence, bytes) or not isinstance(stats, bytes):
        return 0
    marks = _MARKS.findall(stats)
    if not any(mark.startswith(b"total_forks") for mark in marks) or _CHILDREN.search(persistence):
        return 0
    return zlib.crc32(b" ".join([run_id[1], *sorted(marks)])) or 1
