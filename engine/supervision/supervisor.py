"""The supervisor: forks, watches, restarts, drains, reloads. No threads, no clients of Redis or AWS.

It turns what the operating system says into messages for `engine.supervision.children`, and that registry's
decisions into system calls. The planner asks Redis and AWS on its behalf, in a separate process.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from setproctitle import setproctitle

from engine.audit.held_file import HeldFile
from engine.clock import monotonic_ms
from engine.config import RedisSettings, Settings
from engine.console.otlp.installed import examine_extras
from engine.digests.folder import keep_only
from engine.errors import SupervisionError
from engine.lifecycle import (
    Compared,
    CompareWanted,
    Drain,
    Failed,
    RepairTaken,
    RepairWanted,
    SetLogLevel,
    Standings,
)
from engine.observe import logs
from engine.ring.counters import ChildState, Counter, totals
from engine.routing.slices import parse_slice
from engine.supervision import messages
from engine.supervision.channels import Channels
from engine.supervision.children import Child, Children, Phase, in_words
from engine.supervision.errands import choices
from engine.supervision.errands.attendant import console_of
from engine.supervision.errands.comparer import Comparer
from engine.supervision.errands.errand import Errand
from engine.supervision.errands.places import examine_places
from engine.supervision.errands.planner import Answer, Plan, Refused, as_planned, plan_at_start
from engine.supervision.errands.replanning import Planner
from engine.supervision.forking import Forker
from engine.supervision.locks import Locks
from engine.supervision.mains import Mains
from engine.supervision.memory import SharedMemory
from engine.supervision.messages import Decision
from engine.supervision.notify import ServiceManager
from engine.supervision.process import Closable, kill, kill_all, reap
from engine.supervision.progress.checkpoint import CheckpointFile
from engine.supervision.progress.keeping import Keeper, fence_after_ms
from engine.supervision.progress.repairs import Repairs
from engine.supervision.report import StatusReport, describe, describe_held, drained
from engine.supervision.signals import SignalInbox
from engine.supervision.status import Publisher, StatusFile
from engine.supervision.topology.changes import Changes
from engine.supervision.topology.retopology import AskNodes
from engine.supervision.topology.watched import WatchedFile
from engine.text import counted

log = logs.get_logger(__name__)

LOOK_MS = 250
"""How often the children's rows are read when nothing else happens."""
LOOK_MS_BUSY = 20

Compare = Callable[[Settings, int, bytes], Answer]
"""Settings, database and the encoded table → what was found; runs in the comparer's process."""


def run(
    settings: Settings,
    *,
    plan: Planner,
    load: Callable[[], Settings],
    mains: Mains,
    compare: Compare | None = None,
    ask: AskNodes | None = None,
    connection: Mapping[str, str] | None = None,
    file: str | None = None,
) -> int:
    """Run the engine until it is drained or stopped; return the exit status.

    ``load`` reads the settings of ``file`` again, for new routes; ``connection`` has the connection's settings and
    their origins. Raises EngineError if the engine can't start.
    """
    logs.configure(settings.log, "supervisor")
    setproctitle("engine: supervisor")
    if problems := examine_places(settings) + examine_extras(settings):
        raise Refused(problems)
    status = StatusFile(settings.supervision.status_file)
    status.acquire()
    inbox = SignalInbox()
    locks: Locks | None = None
    try:
        if connection:
            log.info("connection", **connection)
        locks = Locks(settings)
        planned = plan_at_start(lambda: plan(settings, None), settings, (status, locks), inbox)
        if isinstance(planned, int):
            return planned
        for warning in planned.warnings:
            log.warning("worth_knowing", message=warning)
        asked, settings = settings.redis, as_planned(settings, planned)
        load = partial(_load_as_planned, load, asked, settings.redis)
        watched = WatchedFile(Path(file) if file and settings.supervision.reload_on_change else None)
        return Supervisor(settings, planned, plan, load, mains, status, inbox, locks, compare, ask, watched).run()
    finally:
        if locks is not None:
            locks.close()
        inbox.restore()
        status.remove()


def _load_as_planned(load: Callable[[], Settings], asked: RedisSettings, planned: RedisSettings) -> Settings:
    """Read the settings again; "*" means the databases of the start."""
    fresh = load()
    return replace(fresh, redis=planned) if fresh.redis == asked else fresh


class Supervisor:
    """The loop: passes facts from the system and the children to the registry, and carries out its decisions."""

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
        ask: AskNodes | None,
        watched: WatchedFile,
    ) -> None:
        limits, self._settings, self._planned = settings.supervision, settings, planned
        self._status, self._inbox, self._locks = status, inbox, locks
        shards, invokers = len(planned.feeds), settings.delivery.invokers
        self._memory = SharedMemory(shards, invokers, settings.ring.ring_bytes, settings.otlp)
        self._children = Children(shards, invokers, limits, random.random, monotonic_ms())
        self._selector = selectors.PollSelector()
        self._selector.register(inbox, selectors.EVENT_READ)
        self._channels = Channels(self._selector, lambda number: self._tell(messages.Severed(number)))
        self._repairs = Repairs(self._channels.send, self._memory.heard)
        self._keeper = Keeper(settings, planned, self._memory, CheckpointFile(limits.checkpoint_file))
        # If keys change hosts, it is unknown what another host delivered while this engine did not run.
        is_alone = parse_slice(settings.capture.slice).count == 1
        keep_only(settings.delivery.backlog_folder, invokers, is_known=is_alone and not self._keeper.is_first)
        planning, comparing, asking = self._errands = tuple(
            Errand(name, settings.log, self._selector, self._inherited) for name in ("planner", "comparer", "asker")
        )
        self._changes = Changes(settings, planned, plan, load, ask, (planning, asking), self._keeper, watched)
        self._reload = self._changes.reload
        handover = self._changes.handover
        self._forker = Forker(
            settings, planned, mains, self._memory, self._keeper, handover, self._repairs, self._inherited
        )
        self._comparer, self._compare = Comparer(comparing), compare
        self._console = console_of(settings, self._inherited, self._memory)
        self._choices = choices.Choices(HeldFile.of(settings))
        self._manager = ServiceManager(os.environ)
        self._publisher = Publisher(status)
        self._report = StatusReport(self._memory.board.rows)
        self._exit_status: int | None = None

    def run(self) -> int:
        """Turn until the end; leave nothing running, however it ends."""
        try:
            while self._exit_status is None:
                self._turn()
                if self._exit_status is None:
                    self._selector.select(self._wait_ms() / 1_000)
            return self._exit_status
        finally:
            self._stop_errands()
            self._console.stop()
            kill_all(child.pid for child in self._children.all if child.pid)
            self._channels.close()
            self._selector.close()

    def _turn(self) -> None:
        logs.flush()
        self._manager.beat(monotonic_ms())
        self._obey_signals()
        for number in self._channels.numbers:
            self._hear(number)
        for pid, status in reap():
            self._note_end(pid, status)
        self._look()
        self._turn_changes()
        self._turn_comparer()
        self._console.turn(monotonic_ms())
        for decision in self._children.decide(monotonic_ms()):
            self._do(decision)
        if self._children.phase is not Phase.STARTING:
            self._keeper.turn(monotonic_ms())
        if self._publisher.is_due(monotonic_ms()):
            self._publisher.publish(self._status_now(), monotonic_ms())

    def _wait_ms(self) -> int:
        is_calm = self._children.phase is Phase.READY and self._changes.is_idle
        is_calm = is_calm and all(child.state is ChildState.READY for child in self._children.all)
        return LOOK_MS if is_calm else LOOK_MS_BUSY

    # Facts → messages

    def _obey_signals(self) -> None:
        for number in self._inbox.take():
            if number == signal.SIGHUP:
                self._reload.want(monotonic_ms())
            elif number == signal.SIGUSR1:
                logs.switch_level()
                for child in self._channels.numbers:
                    self._channels.send(child, SetLogLevel(logs.level()))
                self._console.switch_level()
            elif number in {signal.SIGTERM, signal.SIGINT}:
                if self._children.is_draining:
                    log.warning("stopped", by=signal.Signals(number).name)
                    self._exit_status = 128 + number
                    return
                self._manager.stopping()
                log.info("draining", within_s=self._settings.supervision.drain_timeout_s)
                self._tell(messages.DrainWanted())
                self._stop_errands()
                self._publisher.hurry()

    def _hear(self, number: int) -> None:
        for message in self._channels.hear(number):
            if isinstance(message, Failed):
                child = self._children.all[number]
                log.error("child_failed", child=child.name, error=message.message, hint=message.hint)
                self._tell(messages.Reported(number, message.message, message.hint))
            elif isinstance(message, CompareWanted):
                routes = tuple(self._reload.newest.routes.values())
                not_before_ms = monotonic_ms() + fence_after_ms(self._settings, routes)
                self._comparer.want(number, message.number, not_before_ms)
            elif isinstance(message, RepairWanted):
                self._repairs.want(message, self._children.subscribers)
            elif isinstance(message, RepairTaken):
                self._repairs.taken(number, message.number)
            elif isinstance(message, Standings):
                self._report.hear(number, message.routes)
            else:
                self._changes.hear(number, message)

    def _note_end(self, pid: int, status: int) -> None:
        if any(errand.ended(pid) for errand in self._errands) or self._console.ended(pid):
            return
        child = self._children.by_pid(pid)
        if child is None:
            return
        self._hear(child.number)
        self._channels.drop(child.number)
        self._comparer.ended(child.number)
        self._memory.board.row(child.number).set_pid(0)
        self._tell(messages.Exited(pid, status))
        is_expected = self._children.is_draining and status == 0
        (log.debug if is_expected else log.warning)("child_ended", child=child.name, pid=pid, how=in_words(status))
        self._publisher.hurry()

    def _look(self) -> None:
        for child in self._children.all:
            row = self._memory.board.row(child.number)
            self._tell(messages.Seen(child.number, row.state, row.heartbeat_ms, self._memory.backlog_bytes(child)))

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
                self._channels.send(number, Drain())
            case messages.Ready():
                self._announce()
            case messages.GiveUp(message, hint):
                raise SupervisionError(message, hint=hint)
            case messages.Drained(left):
                self._finish(left)

    def _fork(self, child: Child) -> None:
        try:
            pid, channel = self._forker.fork(child, self._reload.table_for(child.role))
        except OSError as error:
            log.error("fork_failed", child=child.name, error=error.strerror)
            self._tell(messages.ForkFailed(child.number, error.strerror or "no reason given"))
            return
        self._channels.add(child.number, channel)
        self._repairs.forked(child)
        self._tell(messages.Forked(child.number, pid))
        self._changes.forked(child)
        (log.warning if child.restarts else log.debug)(
            "child_replaced" if child.restarts else "child_forked",
            child=child.name,
            pid=pid,
            restarts=child.restarts,
        )
        self._publisher.hurry()

    def _inherited(self) -> tuple[Closable, ...]:
        """Return what a new process must not keep open."""
        helpers = (errand.process for errand in self._errands if errand.process is not None)
        return (self._inbox, self._status, self._locks, self._console, *self._channels.ends, *helpers)

    def _announce(self) -> None:
        part, routes = self._settings.capture.slice, self._changes.route_names()
        shards = len(self._children.subscribers)
        invokers = len(self._children.invokers)
        log.info("ready", server=self._planned.server, slice=part, shards=shards, invokers=invokers, routes=routes)
        self._manager.ready(f"{counted(shards, 'shard')} of slice {part}, routes {routes}")
        self._publisher.hurry()

    def _finish(self, left: tuple[str, ...]) -> None:
        sums = totals(self._memory.board.rows)
        ring_bytes = sum(self._memory.backlog_bytes(child) for child in self._children.all)
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
        log.info("drained", **drained(sums))
        self._exit_status = 0

    # Errands

    def _turn_changes(self) -> None:
        if self._children.phase is not Phase.READY:
            return
        was_idle = self._changes.is_idle
        for number, reason in self._changes.turn(self._children.all, self._channels.send):
            self._tell(messages.Condemned(number, reason))
        if self._changes.is_idle and not was_idle:
            self._publisher.hurry()

    def _turn_comparer(self) -> None:
        comparer, compare = self._comparer, self._compare
        self._choices.turn(comparer, monotonic_ms())
        if compare is not None and not self._children.is_draining and comparer.is_due(monotonic_ms()):
            settings, database, table = self._settings, self._planned.database, self._reload.newest.encode()
            comparer.start(lambda: compare(settings, database, table), monotonic_ms())
        for number, wish in (comparer.poll(monotonic_ms()) or {}).items():
            self._channels.send(number, Compared(wish))

    def _stop_errands(self) -> None:
        for errand in self._errands:
            errand.stop()

    def _status_now(self) -> dict[str, Any]:
        memory, routes, part = self._memory, self._reload.newest, self._settings.capture.slice
        describe_all = partial(
            describe, self._children, memory.board.rows, routes, part=part, snapshots=self._keeper.snapshots()
        )
        return self._report.make(describe_all, self._keeper.standing(), describe_held(self._choices.held))
