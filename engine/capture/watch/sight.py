"""One look at a server's own figures, and what is different between two.  (pure)"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import hiredis

from engine.capture.notifications import SETTING
from engine.capture.watch.trust import IDLE_CLOCK_S, Facts, Software
from engine.redis.errors import refusal
from engine.routing.routes import merge_flags

QUESTIONS = (
    ("TIME",),
    ("CONFIG", "GET", SETTING),
    ("INFO", "server"),
    ("INFO", "persistence"),
    ("INFO", "stats"),
    ("INFO", "replication"),
    ("INFO", "memory"),
    ("INFO", "commandstats"),
    ("CLIENT", "LIST", "TYPE", "master"),
)
_SECTIONS = range(2, 8)

_REPLACING = tuple(
    f"cmdstat_{name}".encode() for name in ("flushall", "flushdb", "swapdb", "debug", "replicaof", "slaveof")
)
"""Commands that replace the dataset without an event for each key."""
_RESTORING = (b"cmdstat_restore", b"cmdstat_restore-asking")
"""They may set an idle time."""
_FLUSHDB = b"cmdstat_flushdb"
_RESETS = b"cmdstat_config|resetstat"
_CONFIG_SETS = b"cmdstat_config|set"
_MISLEADING = (b"total_forks", b"expired_fields", b"expired_subkeys")
_CALLS = re.compile(rb"calls=(\d+)")
_RESET = re.compile(rb"calls=[1-9]\d*,usec=\d+")
"""A reset sets its own count back as well; how long it took is hardly ever the same."""
_LINK_ID = re.compile(rb"^id=(\d+)")
_NOBODY = re.compile(rb"0*")
"""The previous replication id of a server that has not followed another."""


@dataclass(frozen=True, slots=True)
class Replication:
    """Whose dataset this is; empty if the server does not say.

    ``link`` identifies a replica's connection to its primary. It outlives a break after which the replica resumes where
    it was; a new one means that the whole dataset was sent again. While there is none, it is empty.
    """

    role: bytes = b""
    id: bytes = b""
    id_before: bytes = b""
    offset: int = 0
    link: bytes = b""
    is_up: bool = True
    is_replacing: bool = False
    """Whether the dataset is just being loaded or synchronized."""

    @property
    def is_settled(self) -> bool:
        """Tell whether the dataset is complete, apart from single changes."""
        return bool(self.role) and self.is_up and not self.is_replacing and (self.role == b"master" or bool(self.link))


@dataclass(frozen=True, slots=True)
class Sight:
    """One look. ``flags`` is None, a count −1, and everything else empty, if the server does not say.

    ``mark`` is equal in two looks, and not 0, only if idle times can be believed from the one to the other
    (`engine.capture.watch.trust`); ``doubt`` says why it is 0. ``keepsake`` is the word in the key that the engine
    keeps. ``flushes`` are those of single databases, which are among the ``replacements``.
    """

    server_ms: int
    flags: str | None = None
    run_id: bytes = b""
    config_sets: int = -1
    resets: bytes = b""
    commands: int = -1
    connections: int = -1
    replacements: int = -1
    flushes: int = -1
    replication: Replication = Replication()
    keepsake: bytes | None = None
    mark: int = 0
    doubt: str = ""
    stamps_strings: bool = False
    era_ms: int = 0
    """The moment to which the server's clock was last seen to go back."""
    cluster: Mapping[bytes, bytes] = field(default_factory=dict)
    """Figures of the cluster (`engine.capture.watch.membership`)."""

    @property
    def role(self) -> bytes:
        """Return the role in replication, b"" if it is unknown."""
        return self.replication.role

    @property
    def is_linked(self) -> bool:
        """Tell whether it is a primary, or connected to its primary."""
        return self.replication.is_up

    @property
    def is_blind(self) -> bool:
        """Tell whether the server does not count what removes keys without an event."""
        return self.replacements < 0 or not self.run_id


@dataclass(frozen=True, slots=True)
class Change:
    """What is different between two looks.

    ``is_deaf`` while events that are needed are not sent, ``is_unsettled`` while the dataset is being replaced;
    ``is_dataset`` if it was replaced, or may have been.
    """

    reasons: tuple[str, ...] = ()
    is_deaf: bool = False
    is_unsettled: bool = False
    is_dataset: bool = False


def compare(before: Sight, now: Sight, needed_flags: str) -> Change:
    """Return what happened between two looks and is not reported by events."""
    is_deaf = now.flags is not None and merge_flags(now.flags, needed_flags) != now.flags
    was_reset = (
        now.resets != before.resets or 0 <= now.commands < before.commands or 0 <= now.connections < before.connections
    )
    of_events = (
        (is_deaf, "the server's notification flags were removed"),
        (
            not is_deaf and (now.config_sets != before.config_sets or now.flags != before.flags),
            "the server's settings were changed, and its notification flags may have been off",
        ),
    )
    of_dataset = (
        (was_reset, "the server's statistics were reset, which hides what they count"),
        (
            not was_reset and now.replacements != before.replacements,
            "the keyspace was flushed or swapped, or another was loaded",
        ),
        (now.run_id != before.run_id, "another server answers"),
        (now.server_ms < before.server_ms, "the server's clock went back"),
        (
            before.keepsake is not None and now.keepsake != before.keepsake,
            "the key that the engine keeps is gone: the keyspace was flushed, swapped or replaced",
        ),
    )
    found = [words for holds, words in of_dataset if holds]
    found += _replaced(before.replication, now.replication)
    reasons = (*(words for holds, words in of_events if holds), *found)
    return Change(reasons, is_deaf, now.replication.is_replacing, bool(found))


def _replaced(before: Replication, now: Replication) -> Iterable[str]:
    """Yield signs that the dataset was replaced, though the same process answers."""
    if now.is_replacing:
        yield "the dataset is being loaded or synchronized"
    elif before.is_replacing:
        yield "the dataset was loaded or synchronized"
    if now.role != before.role:
        yield "the server's replication role has changed"
    elif now.id != before.id and not (now.role == b"master" and _NOBODY.fullmatch(now.id_before)):
        # A primary that begins to keep a history, for its first replica, takes a new id, with no previous one.
        yield "the server's replication history has changed"
    elif now.id == before.id and now.offset < before.offset:
        yield "the server's replication history went back"
    if before.link and now.link and now.link != before.link:
        yield "the replica was resynchronized with its primary"


def follow(before: Sight, now: Sight) -> Sight:
    """Return the newer look, completed by what only the previous one can know: a link that is down has no name.

    A mark from before the server's clock went back is not valid.
    """
    known, seen = before.replication, now.replication
    if not seen.link and seen.role == known.role:
        seen = replace(seen, link=known.link)
    era_ms = now.server_ms if now.server_ms < before.server_ms else before.era_ms
    mark = (now.mark ^ era_ms & 0xFFFFFFFF or 1) if now.mark else 0
    return replace(now, replication=seen, keepsake=now.keepsake or before.keepsake, era_ms=era_ms, mark=mark)


def flushes_in(info: object) -> int:
    """Return how often ``INFO commandstats`` says that single databases were flushed; −1 if it was refused."""
    commands = _fields(info)
    return _calls(commands, (_FLUSHDB,)) if commands else -1


def unix_ms_of(time: list[bytes]) -> int:
    """Return what the answer to ``TIME`` says, in milliseconds."""
    return int(time[0]) * 1_000 + int(time[1]) // 1_000


def read(address: object, replies: list[Any]) -> Sight:
    """Return what the answers to `QUESTIONS` say; raise `RedisError` if the server does not report its time."""
    time, config = replies[:2]
    if isinstance(time, hiredis.ReplyError):
        raise refusal(address, "report its time", str(time))
    server_ms = unix_ms_of(time)
    flags = config[1].decode("ascii", "replace") if isinstance(config, list) and len(config) == 2 else None
    server, persistence, stats, replication, memory, commands = (_fields(replies[place]) for place in _SECTIONS)
    links = replies[_SECTIONS.stop]
    history = _replication(replication, persistence, links)
    software = Software.of(server)
    facts = _facts(server_ms, history, software, server, persistence, stats, memory, commands)
    # Redis before 7 counts CONFIG as a whole, including our own looks.
    counts_sets = commands and (software.counts_subcommands or b"cmdstat_config" not in commands)
    reset = _RESET.match(commands.get(_RESETS, b""))
    return Sight(
        server_ms,
        flags,
        run_id=server.get(b"run_id", b""),
        config_sets=_calls(commands, (_CONFIG_SETS,)) if counts_sets else -1,
        resets=reset[0] if reset else b"",
        commands=int(stats.get(b"total_commands_processed", -1)),
        connections=int(stats.get(b"total_connections_received", -1)),
        replacements=_calls(commands, _REPLACING) if commands else -1,
        flushes=_calls(commands, (_FLUSHDB,)) if commands else -1,
        replication=history,
        mark=facts.mark,
        doubt=facts.doubt,
        stamps_strings=software.stamps_strings,
    )


def _replication(fields: dict[bytes, bytes], persistence: dict[bytes, bytes], links: object) -> Replication:
    role = fields.get(b"role", b"")
    is_up = role == b"master" or fields.get(b"master_link_status") == b"up"
    link = b""
    if role and role != b"master":
        found = _LINK_ID.match(links) if isinstance(links, bytes) else None
        # If the list is refused, every break of the link counts.
        link = found[1] if found else b"" if isinstance(links, bytes) else b"up" if is_up else b"down"
    states = (fields.get(b"master_sync_in_progress"), persistence.get(b"loading"), persistence.get(b"async_loading"))
    return Replication(
        role,
        fields.get(b"master_replid", b""),
        fields.get(b"master_replid2", b""),
        int(fields.get(b"master_repl_offset", 0)),
        link,
        is_up,
        is_replacing=b"1" in states,
    )


def _facts(
    server_ms: int,
    replication: Replication,
    software: Software,
    server: dict[bytes, bytes],
    persistence: dict[bytes, bytes],
    stats: dict[bytes, bytes],
    memory: dict[bytes, bytes],
    commands: dict[bytes, bytes],
) -> Facts:
    counts = [(name, stats[name]) for name in _MISLEADING if name in stats]
    # FLUSHDB may concern any database, and does not mislead: what exists after it was written after it.
    counted = (name for name in (*_REPLACING, *_RESTORING, _CONFIG_SETS) if name != _FLUSHDB)
    counts += [(name, b"%d" % _calls(commands, (name,))) for name in counted]
    is_counted = b"total_forks" in stats and bool(commands)
    forks = {name for name in persistence if name.endswith(b"_in_progress")}
    idle_clock_s = int(server.get(b"lru_clock", -1))
    return Facts(
        software,
        process=server.get(b"run_id", b""),
        role=replication.role,
        history=b" ".join((replication.id, replication.link)) if replication.id else b"",
        is_settled=replication.is_settled,
        is_forked=not persistence or any(is_on == b"1" for name, is_on in persistence.items() if name in forks),
        policy=memory.get(b"maxmemory_policy", b""),
        counts=tuple(counts) if is_counted else (),
        has_resets=not commands or _RESET.match(commands.get(_RESETS, b"")) is not None,
        clock_lag_s=(server_ms // 1_000 - idle_clock_s) % IDLE_CLOCK_S if idle_clock_s >= 0 else IDLE_CLOCK_S,
    )


def _fields(section: object) -> dict[bytes, bytes]:
    """Return the fields of a section of ``INFO``; none where it was refused."""
    if not isinstance(section, bytes):
        return {}
    return {name: value for name, colon, value in (line.partition(b":") for line in section.split(b"\r\n")) if colon}


def _calls(commands: dict[bytes, bytes], names: Iterable[bytes]) -> int:
    found = (_CALLS.match(commands.get(name, b"")) for name in names)
    return sum(int(calls[1]) for calls in found if calls)
