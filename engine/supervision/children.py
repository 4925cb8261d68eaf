"""The children of the supervisor: which should run, and which are to be killed, replaced or drained.  (pure)

The registry never forks and reads no clock. `Children.tell` takes what happened, and `Children.decide` returns what is
to be done now; the supervisor turns the operating system's facts into the former, and the latter into system calls.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from engine.config import SupervisionSettings
from engine.delivery.lanes.retry import Backoff
from engine.ring.counters import ChildState
from engine.supervision.messages import (
    Condemned,
    Decision,
    Drained,
    DrainWanted,
    Event,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    GiveUp,
    Kill,
    Ready,
    Reported,
    Seen,
    Severed,
    TellDrain,
)

HEALTHY_MS = 30_000
"""A child that was ready for this long starts again with the shortest backoff."""
SEVERED_MS_MAX = 1_000
"""A child whose channel is closed is about to end; one that lives on after this is killed."""
PAUSE_MS = 2_000
"""Two looks further apart than this mean that all processes were paused: no silence counts then."""


class Role(StrEnum):
    """What a child does."""

    SUBSCRIBER = "subscriber"
    INVOKER = "invoker"


class Phase(StrEnum):
    """How far the engine as a whole has come."""

    STARTING = "starting"
    READY = "ready"
    DRAINING_SUBSCRIBERS = "draining_subscribers"
    DRAINING_INVOKERS = "draining_invokers"
    ENDED = "ended"


@dataclass(slots=True)
class Child:
    """One place among the children, and the process that fills it (``pid`` 0: none now)."""

    number: int
    role: Role
    index: int
    count: int
    pid: int = 0
    state: ChildState = ChildState.EMPTY
    heartbeat_ms: int = 0
    backlog_bytes: int = 0
    forked_ms: int = 0
    ready_ms: int = -1
    fork_due_ms: int = 0
    forks: int = 0
    failures: int = 0
    ended: int = 0
    severed_ms: int = -1
    condemned: str = ""
    is_killed: bool = False
    is_drain_told: bool = False

    @property
    def name(self) -> str:
        """Return what people call it, as in ``subscriber 2/4``."""
        return f"{self.role} {self.index + 1}/{self.count}"

    @property
    def restarts(self) -> int:
        """Return how often it was replaced."""
        return max(0, self.forks - 1)


class Children:
    """All children; subscribers first by number, forked after the invokers."""

    def __init__(
        self,
        subscribers: int,
        invokers: int,
        limits: SupervisionSettings,
        random: Callable[[], float],
        now_ms: int,
    ) -> None:
        self.all = tuple(Child(number, Role.SUBSCRIBER, number, subscribers) for number in range(subscribers)) + tuple(
            Child(subscribers + index, Role.INVOKER, index, invokers) for index in range(invokers)
        )
        self.subscribers, self.invokers = self.all[:subscribers], self.all[subscribers:]
        self.phase = Phase.STARTING
        self._limits = limits
        self._backoff = Backoff(limits.restart_backoff_ms_min, limits.restart_backoff_ms_max)
        self._random = random
        self._started_ms = now_ms
        self._looked_ms = now_ms
        self._resumed_ms = now_ms
        self._drain_by_ms = 0
        self._failure: GiveUp | None = None
        self._lost: list[str] = []

    @property
    def is_draining(self) -> bool:
        """Tell whether the drain has begun."""
        return self.phase in {Phase.DRAINING_SUBSCRIBERS, Phase.DRAINING_INVOKERS}

    def by_pid(self, pid: int) -> Child | None:
        """Return the child that this process is, if it is one."""
        return next((child for child in self.all if pid and child.pid == pid), None)

    # What happened

    def tell(self, event: Event, now_ms: int) -> None:
        """Take in what happened."""
        match event:
            case Exited(pid, status):
                child = self.by_pid(pid)
                if child is not None:
                    self._ended(child, status, now_ms)
            case DrainWanted():
                self._begin_drain(now_ms)
            case _:
                self._tell_of(self.all[event.number], event, now_ms)

    def _tell_of(self, child: Child, event: Event, now_ms: int) -> None:
        match event:
            case Forked(_, pid):
                self._forked(child, pid, now_ms)
            case ForkFailed(_, reason):
                self._fail_start(f"{child.name} could not be forked: {reason}", "")
                self._retry(child, now_ms)
            case Seen(_, state, heartbeat_ms, backlog_bytes):
                child.backlog_bytes = backlog_bytes
                if child.pid:
                    child.state, child.heartbeat_ms = state, heartbeat_ms
                    if state is ChildState.READY and child.ready_ms < 0:
                        child.ready_ms = now_ms
            case Reported(_, message, hint):
                if child.ready_ms < 0:
                    self._fail_start(f"{child.name}: {message}", hint)
            case Severed():
                child.severed_ms = now_ms
            case Condemned(_, reason):
                child.condemned = reason

    def _forked(self, child: Child, pid: int, now_ms: int) -> None:
        child.pid = pid
        child.state = ChildState.STARTING
        child.forked_ms = child.heartbeat_ms = now_ms
        child.ready_ms = child.severed_ms = -1
        child.forks += 1
        child.condemned = ""
        child.is_killed = child.is_drain_told = False

    def _ended(self, child: Child, status: int, now_ms: int) -> None:
        if child.ready_ms < 0:
            self._fail_start(
                f"{child.name} ended before it was ready: {in_words(status)}", "its own lines above may say why"
            )
        was_healthy = child.ready_ms >= 0 and now_ms - child.ready_ms >= HEALTHY_MS
        child.pid = 0
        child.ended = status
        child.state = ChildState.EMPTY
        if was_healthy:
            child.failures = 0
        if self.is_draining and child.role is Role.SUBSCRIBER:
            self._note_loss(child)
        self._retry(child, now_ms)

    def _retry(self, child: Child, now_ms: int) -> None:
        child.failures += 1
        child.fork_due_ms = now_ms + self._backoff.wait_ms(child.failures, self._random)

    def _fail_start(self, message: str, hint: str) -> None:
        """Remember the first reason for which the start fails; later on nothing is fatal."""
        if self.phase is Phase.STARTING and self._failure is None:
            self._failure = GiveUp(message, hint)

    def _begin_drain(self, now_ms: int) -> None:
        if self.is_draining or self.phase is Phase.ENDED:
            return
        self.phase = Phase.DRAINING_SUBSCRIBERS
        self._drain_by_ms = now_ms + int(self._limits.drain_timeout_s * 1_000)
        for child in self.subscribers:
            if not child.pid and child.forks:
                self._note_loss(child)

    def _note_loss(self, child: Child) -> None:
        """A subscriber that did not end by itself loses the keys that it had not handed on."""
        if child.ended != 0:
            self._lost.append(f"{child.name} ended before it had handed on its keys: {in_words(child.ended)}")

    # What is to be done

    def decide(self, now_ms: int) -> list[Decision]:
        """Return what is to be done now; each thing is asked for once."""
        if now_ms - self._looked_ms > PAUSE_MS:
            self._resumed_ms = now_ms
        self._looked_ms = now_ms
        match self.phase:
            case Phase.ENDED:
                return []
            case Phase.STARTING:
                return self._start(now_ms)
            case Phase.READY:
                return self._keep(self.all, now_ms)
            case _:
                return self._drain(now_ms)

    def _start(self, now_ms: int) -> list[Decision]:
        if self._failure is None and now_ms - self._started_ms >= self._limits.ready_timeout_s * 1_000:
            late = ", ".join(child.name for child in self.all if child.state is not ChildState.READY)
            self._failure = GiveUp(
                f"not ready within {self._limits.ready_timeout_s:g} s: {late}",
                "the lines above may say why; supervision.ready_timeout_s is the limit",
            )
        if self._failure is not None:
            self.phase = Phase.ENDED
            return [self._failure]
        if all(child.state is ChildState.READY for child in self.all):
            self.phase = Phase.READY
            return [Ready()]
        return self._keep((*self.invokers, *self.subscribers), now_ms)

    def _keep(self, children: tuple[Child, ...], now_ms: int) -> list[Decision]:
        """Replace those that have ended, and kill those that are silent."""
        decisions: list[Decision] = []
        for child in children:
            if not child.pid:
                if now_ms >= child.fork_due_ms:
                    decisions.append(Fork(child.number))
            elif not child.is_killed and (reason := self._fault(child, now_ms)):
                child.is_killed = True
                decisions.append(Kill(child.number, child.pid, reason))
        return decisions

    def _fault(self, child: Child, now_ms: int) -> str:
        """Return why this process must be killed, or ""."""
        if child.condemned:
            return child.condemned
        if child.severed_ms >= 0 and now_ms - child.severed_ms >= SEVERED_MS_MAX:
            return "its channel is closed"
        limit_s = self._limits.heartbeat_timeout_s
        if child.state is ChildState.STARTING:
            limit_s = max(limit_s, self._limits.ready_timeout_s)
        silent_ms = now_ms - max(child.heartbeat_ms, child.forked_ms, self._resumed_ms)
        return f"no heartbeat for {silent_ms / 1_000:.1f} s" if silent_ms > limit_s * 1_000 else ""

    def _drain(self, now_ms: int) -> list[Decision]:
        """Subscribers first: they put what they still hold into the rings; then the invokers empty those."""
        if now_ms >= self._drain_by_ms:
            return self._end((*self._lost, *self._unfinished()))
        running = tuple(child for child in self.subscribers if child.pid)
        if self.phase is Phase.DRAINING_SUBSCRIBERS:
            if running:
                return [*self._tell_drain(running), *self._keep((*running, *self.invokers), now_ms)]
            self.phase = Phase.DRAINING_INVOKERS
        needed = tuple(child for child in self.invokers if child.pid or child.backlog_bytes)
        if not needed:
            return self._end(tuple(self._lost))
        return [*self._keep(needed, now_ms), *self._tell_drain(needed)]

    def _tell_drain(self, children: tuple[Child, ...]) -> list[Decision]:
        told: list[Decision] = []
        for child in children:
            if child.pid and not child.is_drain_told:
                child.is_drain_told = True
                told.append(TellDrain(child.number))
        return told

    def _end(self, left: tuple[str, ...]) -> list[Decision]:
        self.phase = Phase.ENDED
        return [Drained(left)]

    def _unfinished(self) -> list[str]:
        left = [f"{child.name} had not handed on all of its keys" for child in self.subscribers if child.pid]
        left += [
            f"{child.name} had not delivered all of its keys"
            for child in self.invokers
            if child.pid or child.backlog_bytes
        ]
        return left


def in_words(status: int) -> str:
    """Return an exit status (negative: a signal) in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
