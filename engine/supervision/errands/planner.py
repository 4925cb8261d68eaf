"""The planner: a short-lived process that asks Redis and AWS, so that the supervisor needs no client of either.

What it found comes back over a pipe: a `Plan`, or a `Refusal` for the user.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterable, Sequence

import msgspec

from engine.clock import monotonic_ms
from engine.config import LogSettings, Settings
from engine.errors import ConfigError, EngineError, Problem
from engine.redis.address import with_database
from engine.routing.assignment import Feeds
from engine.routing.databases import ALL
from engine.routing.nodes import Topology
from engine.supervision.process import Closable, fork_process, kill, run_guarded
from engine.supervision.signals import SignalInbox

ANSWER_BYTES_MAX = 16 * 1024 * 1024
_READ_BYTES = 65_536
LOOK_MS = 250
FORK_HINT = "raise the limits on processes and memory of this user or container"


class Plan(msgspec.Struct, tag=True, frozen=True):
    """What the engine is to do: the feeds of every shard, and routes."""

    feeds: Feeds
    table: bytes
    topology: Topology = Topology()
    epoch: int = 0
    """The newest that was seen in the cluster."""
    is_whole: bool = True
    """Whether all nodes have feeds; nodes that are dead at the start are left out."""
    members: tuple[str, ...] = ()
    """The ids of all nodes of a cluster, including replicas and dead ones: they identify it later."""
    database: int = 0
    """The database of the engine's own keys, and of all keys unless there are several."""
    databases: tuple[int, ...] = ()
    """The captured databases, if there are several."""
    server: str = ""
    warnings: tuple[str, ...] = ()
    scope: str = ""
    """Names the server and database that a checkpoint is true of."""
    server_ms: int = 0
    """Unix time by the server's clock when it was asked; for a cluster, the clock that is most behind."""
    node_ms: dict[str, int] = {}
    """The same of each node, by its id."""
    unheeded: tuple[str, ...] = ()
    """Settings that were changed since the start, and that only a start applies."""


class Refusal(msgspec.Struct, tag=True, frozen=True):
    """Why the engine can't do it: all the reasons at once."""

    problems: tuple[Problem, ...]
    exit_code: int = 1


class Findings(msgspec.Struct, tag=True, frozen=True):
    """What a comparison with the destinations found: keys compared, published as gone, and left alone.

    ``held`` says, for each route, which deletions wait for a decision.
    """

    compared: int
    published: int
    unknown: int = 0
    held: dict[str, str] = {}


class Nodes(msgspec.Struct, tag=True, frozen=True):
    """Which nodes there are, and which shards listen to which part of them. ``epoch`` is the newest that was seen in
    the cluster.

    It ``is_whole`` unless nodes that were dead at the start have no feeds.
    """

    topology: Topology
    feeds: Feeds
    epoch: int = 0
    told: tuple[str, ...] = ()
    is_whole: bool = True


Answer = Plan | Refusal | Findings | Nodes

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def as_planned(settings: Settings, plan: Plan) -> Settings:
    """Return the settings with the databases that ``"*"`` stood for when the server was asked."""
    if settings.redis.databases != ALL:
        return settings
    url = with_database(settings.redis.url, plan.database)
    redis = msgspec.structs.replace(settings.redis, url=url, databases=plan.databases)
    return msgspec.structs.replace(settings, redis=redis)


class Refused(EngineError):
    """The engine can't start; ``problems`` holds every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


def as_refusal(error: EngineError, place: str) -> Refusal:
    """Return an error as what a planner answers."""
    if isinstance(error, ConfigError | Refused):
        return Refusal(error.problems, error.exit_code)
    return Refusal((Problem(place, error.message, error.hint),), error.exit_code)


def as_error(refusal: Refusal) -> EngineError:
    """Return a refusal as the error that the user sees."""
    if refusal.exit_code == ConfigError.exit_code:
        return ConfigError(refusal.problems)
    return Refused(refusal.problems)


def plan_at_start(
    work: Callable[[], Answer], settings: Settings, inherited: tuple[Closable, ...], inbox: SignalInbox
) -> Plan | int:
    """Return the plan, or the exit status if a signal came first; raise what the planner refuses."""
    give_up_ms = monotonic_ms() + int(settings.supervision.ready_timeout_s * 1_000)
    planner = PlannerProcess(work, settings.log, (*inherited, inbox), give_up_ms)
    with selectors.PollSelector() as selector:
        selector.register(planner, selectors.EVENT_READ)
        selector.register(inbox, selectors.EVENT_READ)
        try:
            while not planner.poll(monotonic_ms()):
                selector.select(LOOK_MS / 1_000)
                ends = [number for number in inbox.take() if number in {signal.SIGTERM, signal.SIGINT}]
                if ends:
                    planner.stop()
                    return 128 + ends[0]
        finally:
            os.waitpid(planner.pid, 0)
            planner.close()
    if isinstance(planner.answer, Plan):
        return planner.answer
    assert isinstance(planner.answer, Refusal)
    raise as_error(planner.answer)


class PlannerProcess:
    """One planner at work: readable when it has something to say; ``answer`` is set when it has said it."""

    def __init__(
        self,
        work: Callable[[], Answer],
        settings: LogSettings,
        inherited: Iterable[Closable],
        give_up_ms: int,
        *,
        name: str = "planner",
    ) -> None:
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        self._received = bytearray()
        self._is_over = False
        self.give_up_ms = give_up_ms
        self.answer: Answer | None = None
        self.is_reaped = False
        try:
            self.pid = fork_process(name, lambda: self._work(work), settings, inherited)
        except OSError as error:
            os.close(self._reads)
            raise EngineError(f"cannot fork: {error.strerror}", hint=FORK_HINT) from error
        finally:
            os.close(self._writes)

    def _work(self, work: Callable[[], Answer]) -> int:
        """In the planner: answer, whatever happens."""
        os.close(self._reads)
        answers: list[Answer] = [Refusal((Problem("planner", "ended unexpectedly", "its line above says why"),))]

        def attempt() -> int:
            try:
                answers.append(work())
            except EngineError as error:
                answers.append(as_refusal(error, "start"))
            return 0

        status = run_guarded(attempt)
        data = _encoder.encode(answers[-1])
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._writes, data) :]
        return status

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reads

    def poll(self, now_ms: int) -> bool:
        """Take in what has arrived; True when ``answer`` is set, which in the end it always is."""
        if self.answer is None:
            self._read()
            if self._is_over or len(self._received) > ANSWER_BYTES_MAX:
                self.answer = self._decode()
            elif now_ms >= self.give_up_ms:
                self.stop()
                self.answer = Refusal(
                    (Problem("planner", "Redis or AWS did not answer in time", "supervision.ready_timeout_s"),)
                )
        return self.answer is not None

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self._is_over and len(self._received) <= ANSWER_BYTES_MAX:
                data = os.read(self._reads, _READ_BYTES)
                self._received += data
                self._is_over = not data

    def _decode(self) -> Answer:
        try:
            return _decoder.decode(bytes(self._received))
        except msgspec.MsgspecError:
            self.stop()
            return Refusal((Problem("planner", "ended before it had answered", "was it killed?"),))

    def stop(self) -> None:
        """End it, if it has not ended by itself."""
        if not self.is_reaped:
            kill(self.pid)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reads)
