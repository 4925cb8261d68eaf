"""Whether events still come, where the server does not tell its flags: short-lived keys, and what is heard of them.

Managed services refuse ``CONFIG``, and their flags are changed in a parameter group, underneath us. So a canary is
written every few seconds: once the server has taken it, and a ping sent after that is answered, its events must have
been heard. Only then does a watermark count. A server that refuses for a while (``OOM``, ``NOREPLICAS``, …) is asked
again, and no watermark counts meanwhile.  (pure)
"""

from __future__ import annotations

from enum import Enum, auto

from engine.capture.notifications import canary_commands, canary_event, canary_letters
from engine.capture.own_keys import own_key
from engine.redis.connection import pack
from engine.redis.errors import passes
from engine.routing.byte_classes import channel_prefix

EVERY_MS = 5_000


class _Stage(Enum):
    IDLE = auto()
    WRITTEN = auto()
    TAKEN = auto()
    AWAITED = auto()


class Canary:
    """One subscription's canaries; the keys have the same names everywhere, so that everybody can pass them over."""

    def __init__(self, database: int, needed_flags: str, tag: str | None = "") -> None:
        """``tag`` leads to a slot of the node (`engine.capture.own_keys`); where there is none, nothing is written."""
        self.is_hopeless = False
        """Whether the server does not let us write, and never did: then nothing can be known."""
        self.refusal = ""
        """What the server said to the newest ones, "" if it took them."""
        self.is_verified = False
        """Whether events came, as of the newest pong; the owner takes it back when it has used it."""
        self._prefix = channel_prefix(database)
        letters = canary_letters(needed_flags) if tag is not None else ()
        self._keys = {letter: own_key(tag or "", letter) for letter in letters}
        self._wanted = {canary_event(letter).encode() for letter in self._keys}
        self._heard: set[bytes] = set()
        self._stage = _Stage.IDLE
        self._due_ms = 0
        self._is_given_up = self._was_taken = False

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return the names of the keys, which are nobody's data."""
        return tuple(key.encode() for key in self._keys.values())

    def subscription(self) -> bytes:
        """Return the packed command that subscribes to what is heard of them."""
        return pack(b"SUBSCRIBE", *(self._prefix + key for key in self.keys))

    def is_due(self, moment_ms: int) -> bool:
        """Tell whether the next should be written."""
        return bool(self._keys) and not self._is_given_up and self._stage is _Stage.IDLE and moment_ms >= self._due_ms

    def commands(self, moment_ms: int) -> tuple[bytes, int]:
        """Return the packed commands that write them, and how many replies there will be."""
        self._stage = _Stage.WRITTEN
        self._due_ms = moment_ms + EVERY_MS
        self._heard.clear()
        return canary_commands(self._keys)

    def taken(self, refusal: str) -> None:
        """Note that the server has answered to the commands, and what it refused."""
        self.refusal = refusal
        if not refusal:
            self._was_taken = True
            self.is_hopeless = False
        elif not passes(refusal):
            self.give_up()
        elif refusal.startswith("READONLY") and not self._was_taken:
            # A replica, until it is promoted.
            self.is_hopeless = True
        if self._stage is _Stage.WRITTEN:
            self._stage = _Stage.IDLE if refusal else _Stage.TAKEN

    def give_up(self) -> None:
        """Try no more: only the user can mend what is refused."""
        self.is_hopeless = self._is_given_up = True

    def pinged(self) -> None:
        """Note that a ping was sent: what was taken before is heard before its pong."""
        if self._stage is _Stage.TAKEN:
            self._stage = _Stage.AWAITED

    def heard(self, event: bytes) -> None:
        """Note an event of a canary."""
        self._heard.add(event)

    def ponged(self) -> str:
        """Note that all pings are answered; return the events that should have come and did not."""
        if self._stage is not _Stage.AWAITED:
            return ""
        self._stage = _Stage.IDLE
        missing = self._wanted - self._heard
        self.is_verified = not missing
        return b" ".join(sorted(missing)).decode()
