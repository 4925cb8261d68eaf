"""The state of a group in its stream, as the server reports it, and what became of entries that were never read.
(pure)

``XINFO STREAM … FULL`` is one command, so it shows one moment. It uses the connection that reads, so everything
delivered before it has been received. The server counts all entries ever added, and which of them the group has
reached. What the group has passed beyond what was received here was removed unread, or delivered to another consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.capture.sources.stream.entries import before, parsed


@dataclass(frozen=True, slots=True)
class Standing:
    """A stream and a group in it. ``added``, ``read`` and ``lag`` are None if the server does not know (Redis 6).

    ``first`` is the oldest existing entry, b"" for none; ``deleted`` the newest that was deleted by its id.
    ``delivered`` is up to where the group was given entries, ``pending`` the oldest of those that are not acknowledged.
    ``others`` are other consumers of the group that have some.
    """

    length: int
    first: bytes
    last: bytes
    added: int | None
    deleted: bytes
    delivered: bytes
    read: int | None
    lag: int | None
    pending: bytes
    pending_count: int
    others: tuple[bytes, ...]

    @property
    def settled(self) -> bytes:
        """Return an id up to which everything is acknowledged."""
        return before(self.pending) if self.pending else self.delivered

    @property
    def is_at_end(self) -> bool:
        """Tell whether the group was given everything that is there."""
        return parsed(self.delivered) >= parsed(self.last)

    @property
    def passed(self) -> int | None:
        """Return how many entries, of all that were ever added, the group was given or never will be.

        None if the server does not know, or the group is somewhere in the middle. ``read`` does not help: Redis 7.0
        does not count removed entries there.
        """
        if self.added is None:
            return None
        if self.is_at_end:
            return self.added
        is_before_all = not self.first or parsed(self.first) > parsed(self.delivered)
        return self.added - self.length if is_before_all else None

    @property
    def behind(self) -> int:
        """Return how many entries the group was not given yet; 0 if the server does not know."""
        if self.is_at_end:
            return 0
        return min(self.length, self.lag if self.lag is not None else self.length)


def standing_of(reply: Any, group: bytes, consumer: bytes) -> Standing | None:
    """Return what ``XINFO STREAM … FULL`` says of a group; None if the stream has none of this name."""
    facts = _pairs(reply)
    found = next((one for one in map(_pairs, facts[b"groups"]) if one[b"name"] == group), None)
    if found is None:
        return None
    entries = facts[b"entries"]
    pending = found.get(b"pending") or found.get(b"pel") or ()
    consumers = map(_pairs, found.get(b"consumers") or ())
    others = tuple(one[b"name"] for one in consumers if one[b"name"] != consumer and one.get(b"pel-count"))
    return Standing(
        length=facts[b"length"],
        first=entries[0][0] if entries else b"",
        last=facts[b"last-generated-id"],
        added=facts.get(b"entries-added"),
        deleted=facts.get(b"max-deleted-entry-id", b"0-0"),
        delivered=found[b"last-delivered-id"],
        read=found.get(b"entries-read"),
        lag=found.get(b"lag"),
        pending=pending[0][0] if pending else b"",
        pending_count=found.get(b"pel-count", 0),
        others=others,
    )


def last_id_of(reply: Any) -> bytes:
    """Return the newest id that the stream of ``XINFO STREAM … FULL`` ever had."""
    last: bytes = _pairs(reply)[b"last-generated-id"]
    return last


def _pairs(flat: Any) -> dict[bytes, Any]:
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


class Account:
    """What was received of one stream against what the group was given."""

    def __init__(self) -> None:
        self.received = 0
        """Entries that this process received, each once."""
        self._base: int | None = None
        self._standing: Standing | None = None
        self.is_removed = False
        """Whether unread entries may have been removed, among those that are missing."""

    def look(self, standing: Standing) -> int:
        """Take in a look; return how many entries the group has passed that were not received here."""
        last, self._standing = self._standing or standing, standing
        passed = standing.passed
        if self._base is None:
            # What was removed while nothing read is missing from the first look on.
            start = passed if standing.is_at_end or standing.read is None else standing.read
            self._base = None if start is None else start - self.received
        removed = not standing.first or parsed(standing.first) > parsed(last.delivered)
        self.is_removed |= removed or parsed(standing.deleted) > parsed(last.delivered)
        if passed is None or self._base is None:
            return 0
        missing = passed - self.received - self._base
        if missing < 0:
            # Somebody has set the group back.
            self._base += missing
            missing = 0
        if not missing:
            self.is_removed = False
        return missing

    def close(self, missing: int) -> None:
        """Note that this many were reported."""
        assert self._base is not None
        self._base += missing
        self.is_removed = False
