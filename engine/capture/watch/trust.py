"""Whether a key's idle time can be believed: the facts that this requires, and what follows from them.  (pure)

A narrowed repair skips keys that were last accessed before the gap began. That loses a key whose idle time does not
date from its last write, which can happen in many ways. So narrowing is allowed only if every fact in a short list
supports it. In all other cases every key of the shard is read.

1. The server is a Redis or Valkey of its own kind, from a version that counts subcommands, and reports all of this.
2. Its statistics were never reset: the counts below are those since its start.
3. No child process saves or rewrites: while one does, Redis updates no access times.
4. The policy is not LFU, which keeps a frequency in place of the time.
5. The dataset is being neither loaded nor synchronized, and a replica follows its primary.
6. The idle clock, which a busy server may let stand still, is in step with the server's time.
7. The process, the role, the replication history, the policy and the counts of misleading events (forks, fields that
   expired, settings, swaps, loads, restored keys) are the same as when the gap began: `Facts.mark`.
8. A key is skipped only if it was idle for longer than the gap by both clocks, the server's, asked after the idle time,
   and our own: the server's may have been set (`idle_limit_s`).
9. Strings count only if the server stamps each write with its own time (`Software.stamps_strings`). In older versions
   small integers share one object, and a string is stamped when its command is parsed: a transaction, or a pause, may
   execute it much later.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from engine.model import Missed

IDLE_MARGIN_S = 3
"""Idle times are whole seconds, and so is the server's clock behind them; it may lag by `IDLE_CLOCK_LAG_S_MAX`."""
IDLE_CLOCK_LAG_S_MAX = 1
IDLE_CLOCK_S = 2**24
"""The idle clock's seconds have 24 bits: a clock that went back shows as nearly the maximum."""
IDLE_S_MAX = IDLE_CLOCK_S - 30 * 86_400

CONTAINERS = frozenset(
    b"hashtable intset linkedlist listpack listpackex quicklist skiplist stream ziplist zipmap".split()
)
"""Encodings of values that are not strings: a write looks them up, and stamps them, when it is executed."""

_VERSION = re.compile(rb"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Software:
    """What answers: its family, ``redis``, ``valkey`` or an unknown one, and its version."""

    family: str = ""
    version: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, server: dict[bytes, bytes]) -> Software:
        """Return what ``INFO server`` says; forks also call themselves Redis, and something else in addition."""
        families = {name.removesuffix(b"_version") for name in server if name.endswith(b"_version")} - {b"gcc"}
        family = {frozenset({b"redis"}): "redis", frozenset({b"redis", b"valkey"}): "valkey"}.get(frozenset(families))
        found = _VERSION.match(server.get(f"{family}_version".encode(), b""))
        return cls(family, (int(found[1]), int(found[2]))) if family and found else cls()

    @property
    def counts_subcommands(self) -> bool:
        """Tell whether ``CONFIG SET`` and ``CONFIG RESETSTAT`` are counted by themselves."""
        return self.family == "valkey" or (self.family == "redis" and self.version >= (7, 0))

    @property
    def stamps_strings(self) -> bool:
        """Tell whether a string's idle time is its own, and dates from the execution of its command."""
        return self.version >= {"redis": (8, 2), "valkey": (9, 1)}.get(self.family, (99, 0))


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look says about everything that idle times depend on; empty if the server does not say."""

    software: Software = Software()
    process: bytes = b""
    role: bytes = b""
    history: bytes = b""
    """The replication id, and on a replica also which connection to its primary it lives on."""
    is_settled: bool = False
    """Whether the dataset is neither loaded nor synchronized, and where it follows another it does so now."""
    is_forked: bool = True
    policy: bytes = b""
    counts: tuple[tuple[bytes, bytes], ...] = ()
    """Counts of everything that misleads idle times, by name."""
    has_resets: bool = True
    clock_lag_s: int = IDLE_CLOCK_S

    @property
    def doubt(self) -> str:
        """Return why idle times can't be believed, in words; "" if they can."""
        doubts = (
            (not self.software.family, "the server's software or its INFO is unknown"),
            (not self.software.counts_subcommands, "Redis before 7 does not count subcommands"),
            (
                not (self.process and self.role and self.history and self.counts),
                "the server does not report all of INFO",
            ),
            (self.has_resets, "the server's statistics have been reset, or are not reported"),
            (self.is_forked, "a child process of the server is saving or rewriting"),
            (not self.policy or b"lfu" in self.policy, f"maxmemory-policy is {self.policy.decode() or 'not reported'}"),
            (not self.is_settled, "the dataset is being loaded or synchronized, or its replication link is down"),
            (not 0 <= self.clock_lag_s <= IDLE_CLOCK_LAG_S_MAX, "the server's idle clock stands still"),
        )
        return next((words for holds, words in doubts if holds), "")

    @property
    def mark(self) -> int:
        """Return a digest that two looks share only if idle times can be believed from the one to the other; else 0."""
        if self.doubt:
            return 0
        parts = (self.process, self.role, self.history, self.policy, *(b"=".join(count) for count in self.counts))
        return zlib.crc32(b"\n".join(parts)) or 1


def idle_limit_s(missed: Missed, server_ms: int, local_ms: int) -> int:
    """Return how long a key that changed in the gap can have been idle.

    ``server_ms`` (Unix time) and ``local_ms`` (this host's monotonic time) are read after the idle times. If the
    server's clock was set back, less time has passed by it than keys have been idle; if it was set forward, more.
    """
    passed_ms = max(server_ms - missed.since_ms, local_ms - (missed.since_ms - missed.clock_ms))
    return max(0, passed_ms) // 1_000 + 1 + IDLE_MARGIN_S


def may_be_newer(idle_s: object, limit_s: int) -> bool:
    """Tell whether a key that answers with this idle time may have changed in the gap."""
    return not isinstance(idle_s, int) or idle_s <= limit_s or idle_s >= IDLE_S_MAX
