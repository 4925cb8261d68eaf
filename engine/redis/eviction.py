"""Whether a server evicts keys.  (pure, except for the asking)"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.redis.connection import pack

QUESTIONS = tuple(pack("INFO", section) for section in ("memory", "stats", "replication"))
"""What to ask; Redis before 7 accepts one section per command."""

_MAXMEMORY = re.compile(rb"^maxmemory:(\d+)", re.MULTILINE)
_POLICY = re.compile(rb"^maxmemory_policy:([\w-]+)", re.MULTILINE)
_EVICTED = re.compile(rb"^evicted_keys:(\d+)", re.MULTILINE)
_REPLICA = re.compile(rb"^role:slave", re.MULTILINE)


def may_evict(replies: Sequence[object]) -> bool:
    """Tell from the replies whether the server evicts keys, or did; True if they do not say.

    If the policy allows evictions, a count of 0 proves little: it resets with the server. A replica deletes what its
    primary evicts, and does not know the primary's policy.
    """
    info = joined(replies)
    maxmemory, policy, evicted = (pattern.search(info) for pattern in (_MAXMEMORY, _POLICY, _EVICTED))
    if maxmemory is None or policy is None or evicted is None or _REPLICA.search(info):
        return True
    return int(evicted[1]) > 0 or (int(maxmemory[1]) > 0 and policy[1] != b"noeviction")


def is_replica(replies: Sequence[object]) -> bool:
    """Tell whether the server is a replica, as far as it says."""
    return bool(_REPLICA.search(joined(replies)))


def policy_of(replies: Sequence[object]) -> str:
    """Return the server's eviction policy, "" if its memory is unbounded, or if it does not say."""
    info = joined(replies)
    maxmemory, policy = _MAXMEMORY.search(info), _POLICY.search(info)
    return policy[1].decode() if policy and maxmemory and int(maxmemory[1]) > 0 else ""


def joined(replies: Sequence[object]) -> bytes:
    """Return what the server reported, as one text; refusals are left out."""
    parts = (part.encode() if isinstance(part, str) else part for part in replies if not isinstance(part, Exception))
    return b"\n".join(part for part in parts if isinstance(part, bytes))
