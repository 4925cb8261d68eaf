"""What has to be true before the engine starts, and what it will do then; for the planner and `engine check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from engine.config import RouteSettings, Settings
from engine.errors import ConfigError, EngineError, NotificationsOff, Problem, RedisError
from engine.routing.routes import RouteTable
from engine.supervision.errands.planner import Answer, Findings, Plan, Refusal

if TYPE_CHECKING:
    from engine.capture.preflight import CapturePlan


RoutesOf = Callable[[Settings, Mapping[str, Mapping[str, str]]], tuple[RouteSettings, ...]]
"""Settings and the mapping hashes in Redis → all routes; raises `ConfigError`. Only the command line reads settings."""

_DESTINATION = ": destination"
SEGMENTS_OF_A_LOOK = 1_000_000
"""A scan in so many parts, of which one is read, costs next to nothing."""


class Verdict(StrEnum):
    """What a finding means for a start."""

    OK = "ok"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and the remedy where one is needed."""

    verdict: Verdict
    problem: Problem
    exit_code: int = 0


@dataclass(slots=True)
class Examination:
    """All findings, and the plan where nothing stands against it."""

    findings: list[Finding] = field(default_factory=list)
    plan: Plan | None = None

    def add(self, verdict: Verdict, place: str, message: str, hint: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(verdict, Problem(place, message, hint)))

    def add_error(self, place: str, error: EngineError) -> None:
        """Note what an error says; a `ConfigError` says several things."""
        problems = error.problems if isinstance(error, ConfigError) else (Problem(place, error.message, error.hint),)
        self.findings += [Finding(Verdict.ERROR, problem, error.exit_code) for problem in problems]

    @property
    def exit_code(self) -> int:
        """Return 2 where the settings are wrong, 1 where something else is, else 0."""
        return max((finding.exit_code for finding in self.findings), default=0)

    def notes_of_destinations(self) -> tuple[str, ...]:
        """Return what keeps the engine from finding keys that were deleted in a gap."""
        notes = [one.problem for one in self.findings if one.verdict is Verdict.NOTE]
        return tuple(str(note) for note in notes if note.place.endswith(_DESTINATION))

    def refusal(self) -> Refusal:
        """Return all errors for the user."""
        errors = [finding.problem for finding in self.findings if finding.verdict is Verdict.ERROR]
        return Refusal(tuple(errors), self.exit_code)


def make_plan(settings: Settings, previous: bytes | None, *, routes_of: RoutesOf) -> Answer:
    """Return the plan, or every reason against it; ``previous`` is the encoded table that is in force."""
    found = examine(settings, routes_of, RouteTable.decode(previous) if previous else None)
    if found.plan is not None and previous is None:
        from engine.audit.gone import note_dataset
        from engine.delivery.backlog.moves import rehome

        note_dataset(settings, found.plan.database, tuple(RouteTable.decode(found.plan.table).routes.values()))

        delivery = settings.delivery
        problem = rehome(delivery.backlog_folder, delivery.invokers, delivery.backlog_bytes_max)
        if problem:
            return Refusal((Problem("delivery.backlog_folder", problem, "mend it, or move the folder away"),))
    return found.plan or found.refusal()


def compare_destinations(settings: Settings, database: int, table: bytes) -> Answer:
    """Find keys that the destinations of these routes hold and the server does not, and publish them."""
    from engine.audit.gone import publish_gone

    report = publish_gone(settings, database, tuple(RouteTable.decode(table).routes.values()))
    held = {name: f"{route.gone:,} of {route.of:,} keys: {route.why}" for name, route in report.held.items()}
    return Findings(report.compared, report.published, report.unknown, held)


def examine(
    settings: Settings, routes_of: RoutesOf, previous: RouteTable | None = None, *, changes_nothing: bool = False
) -> Examination:
    """Look at everything that the engine needs; the server's notification flags may be added to, unless
    ``changes_nothing``.
    """
    found = Examination()
    table, is_redis_well = _read_routes(settings, routes_of, previous, found)
    capture = None
    if table is not None:
        if is_redis_well:
            capture = _examine_redis(settings, table, found, changes_nothing=changes_nothing)
        refusing = _examine_functions(settings, tuple(table.routes.values()), found)
        table = table.with_unfenced(refusing)
        _examine_destinations(settings, tuple(table.routes.values()), found)
    if table is not None and capture is not None and not found.exit_code:
        found.plan = Plan(
            shards=tuple(msgspec.msgpack.encode(shard) for shard in capture.shards),
            table=table.encode(),
            database=capture.database,
            server=capture.server,
            warnings=(*capture.warnings, *found.notes_of_destinations()),
            scope=capture.scope,
            server_ms=capture.server_ms,
        )
    return found


def _read_routes(
    settings: Settings, routes_of: RoutesOf, previous: RouteTable | None, found: Examination
) -> tuple[RouteTable | None, bool]:
    """Return the table, and whether Redis answered as far as it was asked."""
    from engine.capture.preflight import read_mappings

    prefix, is_redis_well = settings.original.mapping_prefix, True
    mappings: dict[str, dict[str, str]] = {}
    if prefix:
        try:
            mappings = read_mappings(settings.redis, prefix)
        except RedisError as error:
            found.add_error("redis", error)
            is_redis_well = False
    try:
        routes = routes_of(settings, mappings)
    except ConfigError as error:
        found.add_error("routes", error)
        return None, is_redis_well
    if not routes and not prefix:
        problem = Problem("routes", "there are none", "add a [[routes]] table with a name and a function")
        found.add_error("routes", ConfigError([problem]))
        return None, is_redis_well
    found.add(Verdict.OK, "routes", ", ".join(route.name for route in routes) or "none yet")
    return RouteTable.build(routes, previous), is_redis_well


def _examine_redis(
    settings: Settings, table: RouteTable, found: Examination, *, changes_nothing: bool
) -> CapturePlan | None:
    from engine.capture.preflight import prepare_capture

    may_set = settings.redis.set_notifications
    redis = msgspec.structs.replace(settings.redis, set_notifications=may_set and not changes_nothing)
    try:
        capture = prepare_capture(msgspec.structs.replace(settings, redis=redis), table)
    except NotificationsOff as error:
        if changes_nothing and may_set:
            found.add(Verdict.NOTE, "redis", error.message, "engine start adds what is missing, if it may")
        else:
            found.add_error("redis", error)
        return None
    except RedisError as error:
        found.add_error("redis", error)
        return None
    found.add(Verdict.OK, "redis", f"{capture.server} answers and notifies")
    for warning in capture.warnings:
        found.add(Verdict.NOTE, "redis", warning)
    return capture


def _examine_functions(settings: Settings, routes: tuple[RouteSettings, ...], found: Examination) -> set[str]:
    """See whether functions, streams and queues can be used; return the functions that keep older values out."""
    from engine.aws.target_arns import parse_target_arn
    from engine.delivery.targets.lambda_ import check_functions
    from engine.delivery.targets.make import check_places
    from engine.delivery.targets.probe import probe_functions

    places = [(f"route {route.name!r}", route.function) for route in routes]
    arns = {function: parse_target_arn(function) for _, function in places}
    others = [(place, arn) for place, function in places if (arn := arns[function]) is not None]
    functions = [(place, function) for place, function in places if arns[function] is None]
    refusing: set[str] = set()
    try:
        problems = check_functions(functions, settings.aws, settings.delivery)
        problems += check_places(others, settings.aws, settings.delivery)
        if not problems:
            taking_batches = {route.function for route in routes if route.payload == "batch"}
            batches = [(place, function) for place, function in functions if function in taking_batches]
            probe = probe_functions(batches, settings.aws, settings.delivery)
            problems, refusing = probe.problems, probe.refusing
    except EngineError as error:
        found.add_error("functions", error)
        return refusing
    found.findings += [Finding(Verdict.ERROR, problem, 1) for problem in problems]
    if places and not problems:
        found.add(Verdict.OK, "functions", ", ".join(sorted({function for _, function in places})))
    return refusing


def _examine_destinations(settings: Settings, routes: tuple[RouteSettings, ...], found: Examination) -> None:
    """See whether destinations can be read; the engine delivers without, but finds no keys deleted in a gap."""
    named = {route.destination: route for route in routes if route.destination}
    if not named:
        return
    from engine.audit.options import AuditOptions
    from engine.audit.run import open_destination

    for value, route in named.items():
        try:
            destination = open_destination(route, settings, AuditOptions(workers=1))
            destination.get([b"engine"])
            next(destination.scan(0, SEGMENTS_OF_A_LOOK), None)
        except EngineError as error:
            found.add(Verdict.NOTE, f"route {route.name!r}{_DESTINATION}", error.message, error.hint)
        else:
            found.add(Verdict.OK, f"route {route.name!r}{_DESTINATION}", f"{value} can be read")
