"""What the supervisor and the registry of its children say to each other: events in, decisions out.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

from engine.ring.counters import ChildState


@dataclass(frozen=True, slots=True)
class Forked:
    """This child runs now."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """This child could not be forked."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A process ended: with an exit status, or (negative) by a signal."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What this child's row says, and how much waits for it in its rings."""

    number: int
    state: ChildState
    heartbeat_ms: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class Reported:
    """This child said why it is about to exit."""

    number: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Severed:
    """This child's channel is closed."""

    number: int


@dataclass(frozen=True, slots=True)
class Condemned:
    """This child must be replaced, for a reason that the registry cannot see."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class DrainWanted:
    """Deliver what was captured, then end."""


Event = Forked | ForkFailed | Exited | Seen | Reported | Severed | Condemned | DrainWanted


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork this child now."""

    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill this process, and say why."""

    number: int
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class TellDrain:
    """Send this child `engine.lifecycle.Drain`."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """All children are ready, for the first time."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The start failed: why, and what the user can do."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Drained:
    """The drain is over; ``left`` names what was not delivered."""

    left: tuple[str, ...]


Decision = Fork | Kill | TellDrain | Ready | GiveUp | Drained
