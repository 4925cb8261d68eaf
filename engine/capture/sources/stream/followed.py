"""One stream that is followed: how far it has been read, what is to be acknowledged, and how its group stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from engine.capture.sources.stream.standing import Account, Standing
from engine.model import StreamKept

THE_START = b"0-0"
OWED = b"owed"
"""Stands for a history where a scan is owed, whichever history the server is of."""


def followed(name: bytes, kept: Mapping[str, StreamKept], *, is_new: bool) -> Followed:
    """Return a stream as it was kept; a new one was read elsewhere until now, so its history is not what was kept."""
    ours = kept.get(name.decode(), StreamKept())
    return Followed(name, ours.settled.encode(), history=OWED if is_new else ours.history.encode())


@dataclass(slots=True)
class Followed:
    """What is known of a stream, over all connections."""

    name: bytes
    settled: bytes = b""
    """An id up to which everything is acknowledged; b"" where nothing is known."""
    has_group: bool = False
    make_at: bytes = b""
    """From where a group is to be made, b"" where none is."""
    sets_back: bool = False
    """Whether the group is to begin at the stream's start again."""
    cursor: bytes | None = THE_START
    """Up to where our own pending entries were read again; None once all were, and new ones are read."""
    known: Collection[bytes] = ()
    """Entries that are passed over while pending ones are read."""
    is_counting: bool = False
    """Whether pending entries that are not known were received by nobody: they are not those of a predecessor."""
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
    """The history of the server to which everything belongs that was read, b"" where it is not known."""
    served: bytes = b""
    """The history that the server was of when it was last asked."""
    owes: bytes = b""
    """The history for which a scan is under way, or `OWED`; b"" where none is."""

    @property
    def kept(self) -> StreamKept:
        """Return what the checkpoint is to keep."""
        return StreamKept(self.settled.decode(), self.history.decode())

    @property
    def text(self) -> str:
        """Return the name for people."""
        return self.name.decode("utf-8", "replace")

    def read_pending(self, known: Collection[bytes], *, is_counting: bool) -> None:
        """Have our own pending entries be read before new ones, but for the ``known``."""
        self.cursor, self.known, self.is_counting, self.found = THE_START, known, is_counting, 0

    def lose_connection(self, known: Collection[bytes], unacknowledged: list[bytes]) -> None:
        """Take in that replies may be lost: what the server gave us and we never received is pending now.

        What is ``known`` is on its way; of what is ``unacknowledged`` the server may not know.
        """
        was_reading = self.cursor is None or self.is_counting
        self.read_pending(known, is_counting=self.standing is not None and was_reading)
        self.acks = unacknowledged

    def lose_group(self) -> None:
        """Take in that the group, or the stream, is not there."""
        self.has_group, self.standing, self.account = False, None, Account()
        self.claim_from, self.is_rechecked, self.trim_to, self.is_miscounted = THE_START, False, b"", False
