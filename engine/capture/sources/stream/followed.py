"""One stream that is followed: how far it has been read, what is to be acknowledged, and the state of its group."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from engine.capture.sources.stream.standing import Account, Standing
from engine.model import StreamKept

THE_START = b"0-0"
OWED = b"owed"
"""Stands for a history if a scan is owed, whatever the server's history is."""


def followed(name: bytes, kept: Mapping[str, StreamKept], *, is_new: bool) -> Followed:
    """Return a stream as it was kept; a new one was read elsewhere until now, so its history is not what was kept."""
    ours = kept.get(name.decode(), StreamKept())
    return Followed(name, ours.settled.encode(), history=OWED if is_new else ours.history.encode())


@dataclass(slots=True)
class Followed:
    """What is known of a stream, over all connections."""

    name: bytes
    settled: bytes = b""
    """An id up to which everything is acknowledged; b"" if nothing is known."""
    has_group: bool = False
    make_at: bytes = b""
    """Where a group is to be created from, b"" if none is."""
    sets_back: bool = False
    """Whether the group is to begin at the stream's start again."""
    cursor: bytes | None = THE_START
    """Up to where our own pending entries were read again; None once all were, and new ones are read."""
    known: Collection[bytes] = ()
    """Entries that are skipped while pending ones are read."""
    is_counting: bool = False
    """Whether unknown pending entries were never received: they are not those of a predecessor."""
    found: int = 0
    """How many of those there were."""
    is_rechecked: bool = False
    """Whether pending entries are read, or were, because some are missing."""
    is_miscounted: bool = False
    """Whether the server's count of what the group has passed is to be set right."""
    may_mend: bool = True
    acks: list[bytes] = field(default_factory=list)
    trim_to: bytes = b""
    claim_from: bytes = THE_START
    account: Account = field(default_factory=Account)
    standing: Standing | None = None
    history: bytes = b""
    """The history of the server that everything read belongs to, b"" if it is unknown."""
    served: bytes = b""
    """The history that the server was of when it was last asked."""
    owes: bytes = b""
    """The history for which a scan is under way, or `OWED`; b"" if none is."""

    @property
    def kept(self) -> StreamKept:
        """Return what the checkpoint is to keep."""
        return StreamKept(self.settled.decode(), self.history.decode())

    @property
    def text(self) -> str:
        """Return the name for people."""
        return self.name.decode("utf-8", "replace")

    def read_pending(self, known: Collection[bytes], *, is_counting: bool) -> None:
        """Read our own pending entries before new ones, except the ``known``."""
        self.cursor, self.known, self.is_counting, self.found = THE_START, known, is_counting, 0

    def lose_connection(self, known: Collection[bytes], unacknowledged: list[bytes]) -> None:
        """Note that replies may be lost: what the server sent and we never received is now pending.

        What is ``known`` is on its way; the server may not have received acknowledgements of what is
        ``unacknowledged``.
        """
        was_reading = self.cursor is None or self.is_counting
        self.read_pending(known, is_counting=self.standing is not None and was_reading)
        self.acks = unacknowledged

    def lose_group(self) -> None:
        """Note that the group, or the stream, does not exist."""
        self.has_group, self.standing, self.account = False, None, Account()
        self.claim_from, self.is_rechecked, self.trim_to, self.is_miscounted = THE_START, False, b"", False
