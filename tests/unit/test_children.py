"""The registry of children, without a process or a clock."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import msgspec
import pytest

from engine.config import SupervisionSettings
from engine.ring.counters import ChildState
from engine.supervision.children import HEALTHY_MS, PAUSE_MS, SEVERED_MS_MAX, Children, Phase, in_words
from engine.supervision.messages import (
    Condemned,
    Decision,
    Drained,
    DrainWanted,
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

LIMITS = SupervisionSettings(
    ready_timeout_s=20,
    heartbeat_timeout_s=15,
    restart_backoff_ms_min=100,
    restart_backoff_ms_max=10_000,
    drain_timeout_s=30,
)
SUBSCRIBERS = 2


class World:
    """The registry, and a pretended operating system around it."""

    def __init__(self, limits: SupervisionSettings = LIMITS, rolled: float = 1.0) -> None:
        self.now_ms = 1_000_000
        self.children = Children(SUBSCRIBERS, 1, limits, lambda: rolled, self.now_ms)
        self.next_pid = 100
        self.stopped: set[int] = set()
        self.backlog_bytes = 0

    def decide(self) -> list[Decision]:
        decisions = self.children.decide(self.now_ms)
        for decision in decisions:
            if isinstance(decision, Fork):
                self.children.tell(Forked(decision.number, self.next_pid), self.now_ms)
                self.next_pid += 1
        return decisions

    def see(self, number: int, state: ChildState = ChildState.READY, heartbeat_ms: int | None = None) -> None:
        beat = self.now_ms if heartbeat_ms is None else heartbeat_ms
        backlog = self.backlog_bytes if number >= SUBSCRIBERS else 0
        self.children.tell(Seen(number, state, beat, backlog), self.now_ms)

    def pass_time(self, ms: int, step_ms: int = 250) -> list[Decision]:
        """Let time pass with everybody beating who is not stopped; return all decisions."""
        made: list[Decision] = []
        end = self.now_ms + ms
        while self.now_ms < end:
            self.now_ms = min(end, self.now_ms + step_ms)
            for child in self.children.all:
                if child.pid and child.number not in self.stopped:
                    self.see(child.number, max(child.state, ChildState.READY))
                else:
                    self.see(child.number, child.state, child.heartbeat_ms)
            made += self.decide()
        return made

    def start(self) -> World:
        self.decide()
        for child in self.children.all:
            self.see(child.number)
        assert self.decide() == [Ready()]
        return self

    def end(self, number: int, status: int) -> None:
        self.children.tell(Exited(self.children.all[number].pid, status), self.now_ms)


def kinds(decisions: Sequence[Decision]) -> list[type]:
    return [type(decision) for decision in decisions]


def test_invokers_are_forked_before_subscribers() -> None:
    """The first decisions fork the invoker, then the subscribers; each is asked for once."""
    world = World()
    assert world.decide() == [Fork(2), Fork(0), Fork(1)]
    assert world.decide() == []


def test_ready_is_said_once() -> None:
    """READY is said when the last child is ready, and never again."""
    world = World()
    world.decide()
    world.see(0)
    world.see(2)
    assert world.decide() == []
    world.see(1)
    assert world.decide() == [Ready()]
    assert world.children.phase is Phase.READY
    assert world.pass_time(5_000) == []


def test_names_count_from_one() -> None:
    """A child is called as people count."""
    assert [child.name for child in World().children.all] == [
        "subscriber 1/2", "subscriber 2/2", "invoker 1/1",
    ]  # fmt: skip


def test_a_report_before_ready_fails_the_start() -> None:
    """What the first failing child says is why the start fails, with its remedy."""
    world = World()
    world.decide()
    world.children.tell(Reported(1, "no password fits", "set redis.password"), world.now_ms)
    world.children.tell(Reported(0, "something later", ""), world.now_ms)
    assert world.decide() == [GiveUp("subscriber 2/2: no password fits", "set redis.password")]
    assert world.decide() == []


@pytest.mark.parametrize(("status", "words"), [(70, "exit status 70"), (-9, "killed by SIGKILL")])
def test_an_end_before_ready_fails_the_start(status: int, words: str) -> None:
    """A child that ends without a word before it is ready fails the start, and its end is told."""
    world = World()
    world.decide()
    world.end(2, status)
    (decision,) = world.decide()
    assert isinstance(decision, GiveUp)
    assert decision.message == f"invoker 1/1 ended before it was ready: {words}"


def test_a_fork_that_fails_fails_the_start_only() -> None:
    """Where no process can be made the start fails; later on it is retried."""
    world = World()
    world.children.tell(ForkFailed(0, "no memory"), world.now_ms)
    assert kinds(world.decide()) == [GiveUp]
    world = World().start()
    world.end(0, -9)
    world.children.tell(ForkFailed(0, "no memory"), world.now_ms)
    assert Fork(0) in world.pass_time(20_000)


def test_late_children_fail_the_start_by_name() -> None:
    """Past the ready timeout the start fails, and says who was late."""
    world = World()
    world.decide()
    world.see(0)
    world.stopped = {1, 2}
    (decision,) = world.pass_time(20_000)
    assert isinstance(decision, GiveUp)
    assert decision.message == "not ready within 20 s: subscriber 2/2, invoker 1/1"


def test_a_child_that_was_ready_is_replaced_during_the_start() -> None:
    """A child that dies after it was ready does not fail the start of the others."""
    world = World()
    world.decide()
    world.see(0)
    world.end(0, -9)
    world.now_ms += 100
    assert world.decide() == [Fork(0)]


def test_restarts_back_off_and_start_afresh_after_health() -> None:
    """Waits double up to their bound while a child keeps failing; a healthy time makes them short again."""
    world = World(msgspec.structs.replace(LIMITS, heartbeat_timeout_s=3_600)).start()
    waits = []
    for _ in range(9):
        world.end(0, 1)
        before = world.now_ms
        while not (decisions := world.decide()):
            world.now_ms += 1
        assert decisions == [Fork(0)]
        waits.append(world.now_ms - before)
        world.see(0)
    assert waits == [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]
    assert world.children.all[0].restarts == 9
    world.pass_time(HEALTHY_MS)
    world.end(0, 1)
    assert world.pass_time(100, step_ms=100) == [Fork(0)]


def test_backoff_has_jitter() -> None:
    """With another throw of the dice the wait is another, and never nothing."""
    world = World(rolled=0.0).start()
    world.end(0, 1)
    assert world.decide() == []
    assert world.pass_time(12, step_ms=12) == [Fork(0)]


def test_a_silent_child_is_killed_once() -> None:
    """A child without heartbeat past the limit is killed, once, and replaced when it has ended."""
    world = World().start()
    world.stopped = {2}
    assert world.pass_time(15_000) == []
    (decision,) = world.pass_time(1_000)
    assert isinstance(decision, Kill)
    assert decision.number == 2 and decision.pid == world.children.all[2].pid
    assert decision.reason == "no heartbeat for 15.2 s"
    assert world.pass_time(5_000) == []
    world.end(2, -9)
    assert world.pass_time(250) == [Fork(2)]


def test_a_replacement_that_starts_has_the_start_s_patience() -> None:
    """A replacement is allowed the ready timeout before its first beat, where that is the longer one."""
    world = World().start()
    world.end(0, -9)
    world.stopped = {0}
    assert world.pass_time(250) == [Fork(0)]
    assert world.pass_time(20_000) == []
    assert kinds(world.pass_time(500)) == [Kill]


def test_a_pause_of_everybody_kills_nobody() -> None:
    """After the host slept, or was frozen, old heartbeats are nobody's fault; a new silence counts."""
    world = World().start()
    world.now_ms += 3_600_000
    assert world.decide() == []
    world.stopped = {0, 1, 2}
    assert world.pass_time(15_000) == []
    assert kinds(world.pass_time(250)) == [Kill, Kill, Kill]
    assert LIMITS.heartbeat_timeout_s * 1_000 > PAUSE_MS


def test_a_severed_child_is_killed_after_a_while() -> None:
    """A closed channel alone kills nobody who is about to end; who lives on is killed."""
    world = World().start()
    world.children.tell(Severed(1), world.now_ms)
    assert world.decide() == []
    decisions = world.pass_time(SEVERED_MS_MAX)
    assert [(d.number, d.reason) for d in decisions if isinstance(d, Kill)] == [(1, "its channel is closed")]


def test_a_condemned_child_is_replaced() -> None:
    """Whom the supervisor condemns is killed for that reason; its successor is not."""
    world = World().start()
    world.children.tell(Condemned(2, "too slow"), world.now_ms)
    assert world.decide() == [Kill(2, 102 - 2, "too slow")]
    world.end(2, -9)
    assert world.pass_time(1_000) == [Fork(2)]


def test_after_the_start_a_report_is_not_fatal() -> None:
    """A failing child is restarted for ever once the engine was ready."""
    world = World().start()
    for _ in range(50):
        world.children.tell(Reported(0, "no connection", ""), world.now_ms)
        world.end(0, 1)
        assert world.pass_time(10_000) == [Fork(0)]


def test_the_drain_goes_subscribers_first() -> None:
    """Subscribers are told, and only when all have ended the invokers are; then it is over."""
    world = World().start()
    world.children.tell(DrainWanted(), world.now_ms)
    assert world.decide() == [TellDrain(0), TellDrain(1)]
    world.end(0, 0)
    assert world.pass_time(1_000) == []
    world.end(1, 0)
    assert world.decide() == [TellDrain(2)]
    world.end(2, 0)
    assert world.decide() == [Drained(())]
    assert world.decide() == []


def test_an_invoker_killed_in_the_drain_is_replaced_while_its_rings_hold_work() -> None:
    """Work in the rings has a successor; without any there is nothing to replace."""
    world = World().start()
    world.backlog_bytes = 512
    world.children.tell(DrainWanted(), world.now_ms)
    world.decide()
    world.end(0, 0)
    world.end(1, 0)
    assert world.pass_time(1) == [TellDrain(2)]
    world.end(2, -9)
    assert world.pass_time(250) == [Fork(2)]
    assert world.pass_time(250) == [TellDrain(2)]
    world.backlog_bytes = 0
    world.pass_time(250)
    world.end(2, -9)
    assert world.decide() == [Drained(())]


def test_an_invoker_that_ends_before_the_subscribers_is_replaced() -> None:
    """Rings must go on emptying while subscribers hand on their keys, or these would wait for ever."""
    world = World().start()
    world.children.tell(DrainWanted(), world.now_ms)
    world.decide()
    world.end(2, 0)
    assert world.pass_time(250) == [Fork(2)]


def test_a_subscriber_killed_in_the_drain_is_a_loss() -> None:
    """A subscriber that is killed while it drains is not replaced: what it held is gone, and is told."""
    world = World().start()
    world.children.tell(DrainWanted(), world.now_ms)
    world.decide()
    world.end(0, -signal.SIGKILL)
    world.end(1, 0)
    assert world.decide() == [TellDrain(2)]
    world.end(2, 0)
    lost = "subscriber 1/2 ended before it had handed on its keys: killed by SIGKILL"
    assert world.decide() == [Drained((lost,))]


def test_a_subscriber_that_drained_by_itself_is_no_loss() -> None:
    """Where a service manager signals all processes at once, one that ended cleanly had handed on its keys."""
    world = World().start()
    world.end(0, 0)
    world.children.tell(DrainWanted(), world.now_ms)
    world.decide()
    world.end(1, 0)
    world.decide()
    world.end(2, 0)
    assert world.decide() == [Drained(())]


def test_a_drain_past_its_limit_names_what_is_left() -> None:
    """The drain ends at its limit, whoever is not done by then."""
    limits = msgspec.structs.replace(LIMITS, drain_timeout_s=1)
    world = World(limits).start()
    world.backlog_bytes = 64
    world.children.tell(DrainWanted(), world.now_ms)
    decisions = world.pass_time(2_000)
    assert decisions[:2] == [TellDrain(0), TellDrain(1)]
    assert decisions[2:] == [
        Drained(
            (
                "subscriber 1/2 had not handed on all of its keys",
                "subscriber 2/2 had not handed on all of its keys",
                "invoker 1/1 had not delivered all of its keys",
            )
        )
    ]


def test_a_second_wish_to_drain_changes_nothing() -> None:
    """A wish to drain counts once; its limit does not move."""
    world = World().start()
    world.children.tell(DrainWanted(), world.now_ms)
    world.decide()
    world.children.tell(DrainWanted(), world.now_ms + 10)
    assert world.decide() == []


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (-15, "killed by SIGTERM"), (-200, "killed by signal 200")]
)
def test_statuses_in_words(status: int, words: str) -> None:
    """An exit status is told in words, and a signal by its name."""
    assert in_words(status) == words
