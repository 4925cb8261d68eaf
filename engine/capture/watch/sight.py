"""One look at a server's own figures, and what is different between two.  (pure)"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import hiredis

from engine.capture.notifications import SETTING
from engine.redis.errors import refusal
from engine.routing.routes import merge_flags

QUESTIONS = (
    ("TIME",),
    ("CONFIG", "GET", SETTING),
    ("INFO", "server"),
    ("INFO", "persistence"),
    ("INFO", "stats"),
    ("INFO", "commandstats"),
)
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


def read(address: object, replies: list[Any]) -> Sight:
    """Return what the answers to `QUESTIONS` say; raise `RedisError` where the server does not tell its time."""
    time, config, server, persistence, stats, commands = replies
    if isinstance(time, hiredis.ReplyError):
        raise refusal(address, "tell its time", str(time))
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
