"""The supervisor: forks, watches, restarts, drains, reloads. No threads, no clients of Redis or AWS.

It turns what the operating system says into messages for `engine.supervision.children`, and that registry's
decisions into system calls. The planner asks Redis and AWS in its stead, in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import time
from collections.abc import Callable

from setproctitle import setproctitle

from engine import __version__
from engine.audit.held_file import HeldFile
from engine.clock import monotonic_ms, now_ms
from engine.config import Settings
from engine.errors import EngineError, SupervisionError
from engine.lifecycle import (
    Channel,
    ChildLink,
    Compared,
    CompareWanted,
    Drain,
    Failed,
    MappingChanged,
    RepairWanted,
    RoutesInForce,
    SetRoutes,
    channel_pair,
)
from engine.observe import logs
from engine.ring.counters import Board, ChildState, Counter
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.routes import RouteTable
from engine.supervision import messages
from engine.supervision.children import Child, Children, Phase, Role, in_words
from engine.supervision.errands import choices
from engine.supervision.errands.comparer import Comparer
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.planner import Answer, Plan, Refusal, plan_at_start
from engine.supervision.locks import Locks
from engine.supervision.mains import Duty, Mains, run_main
from engine.supervision.messages import Decision
from engine.supervision.notify import ServiceManager
from engine.supervision.process import Closable, bound_sends, fork_process, kill, reap
from engine.supervision.progress.checkpoint import CheckpointFile
from engine.supervision.progress.keeping import Keeper, fence_after_ms
from engine.supervision.reload import InForce, Reload, Stage, Teach, with_routes_of
from engine.supervision.report import describe, describe_held, totals
from engine.supervision.signals import SignalInbox
from engine.supervision.status import StatusFile

log = logs.get_logger(__name__)

LOOK_MS = 250
"""How often the children's rows are read when nothing else happens."""
LOOK_MS_BUSY = 20
PUBLISH_MS = 1_000
KILLED_S_MAX = 5.0

Planner = Callable[[Settings, bytes | None], Answer]
"""Settings and the encoded table in force → what to do; runs in the planner's process."""

Compare = Callable[[Settings, int, bytes], Answer]
"""Settings, database and the encoded table → what was found; runs in the comparer's process."""


def run(
    settings: Settings, *, plan: Planner, load: Callable[[], Settings], mains: Mains, compare: Compare | None = None
) -> int:
    """Run the engine until it is drained or stopped; return the exit status.

    ``load`` reads the settings again, for new routes. Raises EngineError where the engine can't start.
    """
    logs.configure(settings.log, "supervisor")
    setproctitle("engine: supervisor")
    status = StatusFile(settings.supervision.status_file)
    status.acquire()
    inbox = SignalInbox()
    locks: Locks | None = None
    try:
        locks = Locks(settings)
        planned = plan_at_start(lambda: plan(settings, None), settings, (status, locks), inbox)
        if isinstance(planned, int):
            return planned
        for warning in planned.warnings:
            log.warning("worth_knowing", message=warning)
        return Supervisor(settings, planned, plan, load, mains, status, inbox, locks, compare).run()
    finally:
        if locks is not None:
            locks.close()
        inbox.restore()
        status.remove()


class Supervisor:
    """The loop, and what it owns: shared memory, channels, the registry, the route table."""

    def __init__(
        self,
        settings: Settings,
        planned: Plan,
        plan: Planner,
        load: Callable[[], Settings],
        mains: Mains,
        status: StatusFile,
        inbox: SignalInbox,
        locks: Locks,
        compare: Compare | None,
    ) -> None:
        limits, self._settings = settings.supervision, settings
        self._planned, self._plan, self._load = planned, plan, load
        self._mains, self._status, self._inbox, self._locks = mains, status, inbox, locks
        shards, invokers = len(planned.shards), settings.delivery.invokers
        self._rings = RingSet(shards, invokers, settings.ring.ring_bytes)
        self._rings_of = [[self._rings.ring(shard, invoker) for shard in range(shards)] for invoker in range(invokers)]
        self._wakes = tuple(Wake() for _ in range(invokers))
        self._board = Board(shards + invokers)
        self._children = Children(shards, invokers, limits, random.random, monotonic_ms())
        self._channels: dict[int, Channel] = {}
        self._reload = Reload(RouteTable.decode(planned.table), int(limits.heartbeat_timeout_s * 1_000))
        self._keeper = Keeper(settings, planned, self._rings, self._board, CheckpointFile(limits.checkpoint_file))
        self._selector = selectors.PollSelector()
        self._selector.register(inbox, selectors.EVENT_READ)
        self._planning = Errand("planner", settings.log, self._selector, self._inherited)
        self._comparing = Errand("comparer", settings.log, self._selector, self._inherited)
        self._comparer, self._compare = Comparer(self._comparing), compare
        self._choices = choices.Choices(HeldFile.of(settings))
        self._manager = ServiceManager(os.environ)
        self._started_at_ms = now_ms()
        self._publish_due_ms = 0
        self._is_unpublished = False
        self._exit_status: int | None = None

    def run(self) -> int:
        """Turn until the end; leave nothing running, however it comes."""
        try:
            while self._exit_status is None:
                self._turn()
                if self._exit_status is None:
                    self._selector.select(self._wait_ms() / 1_000)
            return self._exit_status
        finally:
            self._end_all()

    def _turn(self) -> None:
        self._manager.beat(monotonic_ms())
        self._obey_signals()
        for number in tuple(self._channels):
            self._hear(number)
        for pid, status in reap():
            self._note_end(pid, status)
        self._look()
        self._turn_routes()
        self._turn_comparer()
        for decision in self._children.decide(monotonic_ms()):
            self._do(decision)
        if self._children.phase is not Phase.STARTING:
            self._keeper.turn(monotonic_ms())
        if monotonic_ms() >= self._publish_due_ms:
            self._publish()

    def _wait_ms(self) -> int:
        is_calm = self._children.phase is Phase.READY and self._reload.stage is Stage.IDLE
        is_calm = is_calm and all(child.state is ChildState.READY for child in self._children.all)
        return LOOK_MS if is_calm else LOOK_MS_BUSY

    # Facts → messages

    def _obey_signals(self) -> None:
        for number in self._inbox.take():
            if number == signal.SIGHUP:
                self._reload.want(monotonic_ms())
            elif number in {signal.SIGTERM, signal.SIGINT}:
                if self._children.is_draining:
                    log.warning("stopped", by=signal.Signals(number).name)
                    self._exit_status = 128 + number
                    return
                self._manager.stopping()
                log.info("draining", within_s=self._settings.supervision.drain_timeout_s)
                self._children.tell(messages.DrainWanted(), monotonic_ms())
                self._planning.stop()
                self._comparing.stop()
                self._publish_due_ms = 0

    def _hear(self, number: int) -> None:
        channel, child = self._channels[number], self._children.all[number]
        for message in channel.receive():
            if isinstance(message, Failed):
                log.error("child_failed", child=child.name, error=message.message, hint=message.hint)
                self._tell(messages.Reported(number, message.message, message.hint))
            elif isinstance(message, RoutesInForce):
                self._reload.confirmed(number, message.version)
            elif isinstance(message, MappingChanged):
                self._reload.want(monotonic_ms())
            elif isinstance(message, CompareWanted):
                routes = tuple(self._reload.newest.routes.values())
                not_before_ms = monotonic_ms() + fence_after_ms(self._settings, routes)
                self._comparer.want(number, message.number, not_before_ms)
            elif isinstance(message, RepairWanted):
                for subscriber in self._children.subscribers:
                    self._send(subscriber.number, message)
        if channel.closed:
            self._drop_channel(number)
            self._tell(messages.Severed(number))

    def _note_end(self, pid: int, status: int) -> None:
        if self._planning.ended(pid) or self._comparing.ended(pid):
            return
        child = self._children.by_pid(pid)
        if child is None:
            return
        if child.number in self._channels:
            self._hear(child.number)
            self._drop_channel(child.number)
        self._board.row(child.number).set_pid(0)
        self._tell(messages.Exited(pid, status))
        is_expected = self._children.is_draining and status == 0
        (log.debug if is_expected else log.warning)("child_ended", child=child.name, pid=pid, how=in_words(status))
        self._publish_due_ms = 0

    def _look(self) -> None:
        for child in self._children.all:
            row = self._board.row(child.number)
            self._tell(messages.Seen(child.number, row.state, row.heartbeat_ms, self._backlog_bytes(child)))

    def _backlog_bytes(self, child: Child) -> int:
        if child.role is Role.SUBSCRIBER:
            return 0
        return sum(ring.written - ring.released for ring in self._rings_of[child.index])

    def _tell(self, event: messages.Event) -> None:
        self._children.tell(event, monotonic_ms())

    # Decisions → system calls

    def _do(self, decision: Decision) -> None:
        match decision:
            case messages.Fork(number):
                self._fork(self._children.all[number])
            case messages.Kill(number, pid, reason):
                log.error("child_killed", child=self._children.all[number].name, pid=pid, reason=reason)
                kill(pid)
            case messages.TellDrain(number):
                self._send(number, Drain())
            case messages.Ready():
                self._announce()
            case messages.GiveUp(message, hint):
                raise SupervisionError(message, hint=hint)
            case messages.Drained(left):
                self._finish(left)

    def _fork(self, child: Child) -> None:
        row = self._board.row(child.number)
        row.set_state(ChildState.STARTING)
        row.beat(monotonic_ms())
        ours, theirs = channel_pair()
        bound_sends(ours)
        table = self._reload.table_for(child.role)
        duty = Duty(
            index=child.index,
            settings=self._settings,
            database=self._planned.database,
            shard=self._planned.shards[child.index] if child.role is Role.SUBSCRIBER else b"",
            table=table,
            rings=self._rings,
            wakes=self._wakes,
            missed=self._keeper.missed_by(child) if child.role is Role.SUBSCRIBER else (),
            version_floor=self._keeper.version_floor,
            fence_ms=self._keeper.fence_ms,
        )
        main = self._mains.subscriber if child.role is Role.SUBSCRIBER else self._mains.invoker

        def work() -> int:
            row.set_pid(os.getpid())
            return run_main(main, duty, ChildLink(theirs, row))

        try:
            pid = fork_process(child.name, work, self._settings.log, (ours, *self._inherited()))
        except OSError as error:
            ours.close()
            log.error("fork_failed", child=child.name, error=error.strerror)
            self._tell(messages.ForkFailed(child.number, error.strerror or "no reason given"))
            return
        finally:
            theirs.close()
        self._channels[child.number] = ours
        self._selector.register(ours, selectors.EVENT_READ)
        self._tell(messages.Forked(child.number, pid))
        self._reload.forked(child)
        (log.warning if child.restarts else log.debug)(
            "child_replaced" if child.restarts else "child_forked",
            child=child.name,
            pid=pid,
            restarts=child.restarts,
        )
        self._publish_due_ms = 0

    def _inherited(self) -> tuple[Closable, ...]:
        """Return what a new process must not keep open of ours."""
        errands = (self._planning.process, self._comparing.process)
        helpers = (one for one in errands if one is not None)
        return (self._inbox, self._status, self._locks, *self._channels.values(), *helpers)

    def _send(self, number: int, message: Drain | SetRoutes | Compared | RepairWanted) -> None:
        channel = self._channels.get(number)
        if channel is not None and not channel.send(message):
            self._drop_channel(number)
            self._tell(messages.Severed(number))

    def _drop_channel(self, number: int) -> None:
        channel = self._channels.pop(number, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()

    def _announce(self) -> None:
        log.info(
            "ready",
            server=self._planned.server,
            slice=self._settings.capture.slice,
            shards=len(self._children.subscribers),
            invokers=len(self._children.invokers),
            routes=self._route_names(),
        )
        part, shards = self._settings.capture.slice, len(self._children.subscribers)
        self._manager.ready(f"{shards} shards of slice {part}, routes {self._route_names()}")
        self._publish_due_ms = 0

    def _route_names(self) -> str:
        return ", ".join(route.name for route in self._reload.newest.routes.values())

    def _finish(self, left: tuple[str, ...]) -> None:
        sums = totals(self._board.rows)
        ring_bytes = sum(self._backlog_bytes(child) for child in self._children.all)
        if left or ring_bytes:
            log.error(
                "drain_incomplete",
                left="; ".join(left) or "frames in the rings",
                ring_bytes=ring_bytes,
                dirty_keys=sums[Counter.DIRTY_KEYS.name.lower()],
                keys_waiting=sums[Counter.KEYS_WAITING.name.lower()],
                keys_in_flight=sums[Counter.KEYS_IN_FLIGHT.name.lower()],
                limit_s=self._settings.supervision.drain_timeout_s,
            )
            self._keeper.keep(is_clean=False)
            self._exit_status = 1
            return
        self._keeper.keep(is_clean=True)
        log.info("drained", records_delivered=sums[Counter.RECORDS_DELIVERED.name.lower()])
        self._exit_status = 0

    # Routes

    def _turn_routes(self) -> None:
        if self._children.phase is not Phase.READY:
            return
        if self._reload.is_due(monotonic_ms()):
            self._start_planner()
        answer = self._planning.poll(monotonic_ms())
        if answer is not None:
            self._take_answer(answer)
        for step in self._reload.step(self._children.all, monotonic_ms()):
            if isinstance(step, InForce):
                log.info("routes_in_force", version=self._reload.newest.version, routes=self._route_names())
                self._publish_due_ms = 0
            elif isinstance(step, Teach):
                self._send(step.number, SetRoutes(self._reload.newest.encode()))
            else:
                self._tell(messages.Condemned(step.number, "it did not take the new routes in time"))

    def _start_planner(self) -> None:
        self._reload.planning()
        settings, load, table = self._settings, self._load, self._reload.newest.encode()
        give_up_ms = monotonic_ms() + int(settings.supervision.ready_timeout_s * 1_000)

        def work() -> Answer:
            return self._plan(with_routes_of(settings, load()), table)

        try:
            self._planning.start(work, give_up_ms)
        except EngineError as error:
            log.error("reload_refused", error=error.message, hint=error.hint)
            self._reload.refused()

    def _take_answer(self, answer: Answer) -> None:
        if isinstance(answer, Plan):
            self._keeper.take_routes(RouteTable.decode(answer.table), answer.server_ms)
            if not self._reload.planned(RouteTable.decode(answer.table), monotonic_ms()):
                log.info("routes_unchanged", version=self._reload.newest.version)
            return
        assert isinstance(answer, Refusal)
        for problem in answer.problems:
            log.error("reload_refused", place=problem.place, error=problem.message, hint=problem.hint)
        self._reload.refused()

    # Comparisons

    def _turn_comparer(self) -> None:
        comparer, compare = self._comparer, self._compare
        if self._choices.look():
            comparer.want(choices.CHILD, self._choices.wishes, monotonic_ms())
        if compare is not None and not self._children.is_draining and comparer.is_due(monotonic_ms()):
            settings, database, table = self._settings, self._planned.database, self._reload.newest.encode()
            comparer.start(lambda: compare(settings, database, table), monotonic_ms())
        fulfilled = comparer.poll(monotonic_ms())
        for number, wish in (fulfilled or {}).items():
            self._send(number, Compared(wish))

    # Status and end

    def _publish(self) -> None:
        self._publish_due_ms = monotonic_ms() + PUBLISH_MS
        status = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at_ms": self._started_at_ms,
            **describe(
                self._children,
                self._board.rows,
                self._reload.newest,
                part=self._settings.capture.slice,
                settled_until_ms=self._keeper.settled_until_ms,
                now_ms=now_ms(),
                moment_ms=monotonic_ms(),
            ),
            **describe_held(self._choices.held),
        }
        try:
            self._status.write(status)
            self._is_unpublished = False
        except OSError as error:
            if not self._is_unpublished:
                log.error("status_not_written", error=error.strerror)
            self._is_unpublished = True

    def _end_all(self) -> None:
        """Kill what still runs, and wait until it is gone."""
        self._planning.stop()
        self._comparing.stop()
        deadline = time.monotonic() + KILLED_S_MAX
        for child in self._children.all:
            if child.pid:
                kill(child.pid)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() < deadline:
                time.sleep(0.005)
        for number in tuple(self._channels):
            self._drop_channel(number)
        self._selector.close()
