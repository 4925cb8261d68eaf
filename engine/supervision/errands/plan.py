"""What has to be true before the engine starts, and what it will do then; for the planner and `engine check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.aws.function_arns import is_function
from engine.config import RouteSettings, Settings
from engine.console.otlp.installed import examine_extras
from engine.errors import ConfigError, EngineError, NotificationsOff, Problem, RedisError
from engine.redis.address import parse_url
from engine.routing.databases import databases_of, in_words, route_inside
from engine.routing.nodes import Topology, ranges_in_words
from engine.routing.routes import RouteTable
from engine.routing.streams import for_entries, streams_of
from engine.routing.unseen import notes_of
from engine.supervision.errands.aws_findings import AwsLook
from engine.supervision.errands.findings import Finding, Verdict, finding
from engine.supervision.errands.formats import newer_formats
from engine.supervision.errands.places import examine_places, places_of
from engine.supervision.errands.planner import Answer, Findings, Plan, Refusal
from engine.supervision.progress.checkpoint import CheckpointFile
from engine.supervision.progress.databases import database_of
from engine.text import counted

if TYPE_CHECKING:
    from engine.capture.preflight import CapturePlan


RoutesOf = Callable[[Settings, Mapping[str, Mapping[str, str]]], tuple[RouteSettings, ...]]
"""Settings and the mapping hashes in Redis → all routes; raises `ConfigError`. Only the command line reads settings."""


@dataclass(slots=True)
class Examination:
    """All findings, and the plan if nothing prevents it."""

    settings: Settings = field(default_factory=Settings)
    """What was examined: ``redis.url`` may be another host of the same cluster."""
    findings: list[Finding] = field(default_factory=list)
    plan: Plan | None = None

    def add(self, verdict: Verdict, place: str, message: str, hint: str = "") -> None:
        """Note a finding."""
        self.findings.append(finding(verdict, place, message, hint))

    def put_first(self, facts: Mapping[str, str]) -> None:
        """Note what the rest was found with: by place, its value."""
        self.findings[:0] = [finding(Verdict.OK, place, what) for place, what in facts.items()]

    def add_error(self, place: str, error: EngineError) -> None:
        """Note what an error says; a `ConfigError` says several things."""
        problems = error.problems if isinstance(error, ConfigError) else (Problem(place, error.message, error.hint),)
        self.findings += [Finding(Verdict.ERROR, problem, error.exit_code) for problem in problems]

    @property
    def exit_code(self) -> int:
        """Return 2 if the settings are wrong, 1 if something else is, else 0."""
        return max((finding.exit_code for finding in self.findings), default=0)

    def notes_of_routes(self) -> tuple[str, ...]:
        """Return what passes, what routes will not see, and why keys that were deleted in a gap will not be found."""
        notes = [one.problem for one in self.findings if one.verdict is Verdict.NOTE]
        return tuple(str(note) for note in notes if note.place != "redis")

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

        settings, database = found.settings, found.plan.database
        note_dataset(settings, database, tuple(RouteTable.decode(found.plan.table).routes.values()))

        delivery, kept = settings.delivery, CheckpointFile(settings.supervision.checkpoint_file).load()[0]
        databases = databases_of(settings.redis, database)
        were = database_of(kept.scope) if kept is not None else None
        problem = rehome(delivery.backlog_folder, delivery.invokers, delivery.backlog_bytes_max, databases, were)
        if problem:
            return Refusal((Problem("delivery.backlog_folder", problem, "fix it, or move the folder away"),))
    return found.plan or found.refusal()


def compare_destinations(settings: Settings, database: int, table: bytes) -> Answer:
    """Find keys that the destinations of these routes hold and the server does not, and publish them."""
    from engine.audit.gone import publish_gone
    from engine.supervision.errands.seeds import with_a_host_that_answers

    settings, _ = with_a_host_that_answers(settings)
    report = publish_gone(settings, database, tuple(RouteTable.decode(table).routes.values()))
    held = {name: f"{route.gone:,} of {counted(route.of, 'key')}: {route.why}" for name, route in report.held.items()}
    return Findings(report.compared, report.published, report.unknown, held)


def examine(
    settings: Settings, routes_of: RoutesOf, previous: RouteTable | None = None, *, changes_nothing: bool = False
) -> Examination:
    """Check everything that the engine needs; notification flags may be added at the server, unless
    ``changes_nothing``.
    """
    from engine.supervision.errands.seeds import with_a_host_that_answers

    settings, told = with_a_host_that_answers(settings)
    found = Examination(settings)
    if told:
        found.add(Verdict.NOTE, "redis.url", told)
    _examine_places(settings, found)
    try:
        found.settings = settings = _with_databases(settings)
    except RedisError as error:
        # Nothing that follows makes sense without them.
        found.add_error("redis.databases", error)
        return found
    table, is_redis_well = _read_routes(settings, routes_of, previous, found)
    capture = None
    if table is not None:
        aws = AwsLook(settings, tuple(table.routes.values()))
        if is_redis_well:
            capture = _examine_redis(
                settings, table, found, changes_nothing=changes_nothing, is_running=previous is not None
            )
        _examine_databases(table, found)
        if settings.capture.source == "keyspace":
            _examine_events(settings, table, capture.topology if capture is not None else Topology(), found)
        seen = aws.seen()
        found.findings += seen.findings
        table = table.with_unfenced(seen.refusing)
    if table is not None and capture is not None and not found.exit_code:
        found.plan = Plan(
            feeds=capture.feeds,
            table=table.encode(),
            topology=capture.topology,
            epoch=capture.epoch,
            members=capture.members,
            is_whole=capture.is_whole,
            database=capture.database,
            databases=capture.databases,
            server=capture.server,
            warnings=(*capture.warnings, *found.notes_of_routes()),
            scope=capture.scope,
            server_ms=min(capture.server_ms.values()),
            node_ms=capture.server_ms,
        )
    return found


def _examine_databases(table: RouteTable, found: Examination) -> None:
    """Name the routes that send several databases to a function that is not known to keep them apart."""
    for route in table.routes.values():
        if len(route.databases) > 1 and not route.destination and is_function(route.function):
            found.add(
                Verdict.NOTE,
                f"route {route.name!r}",
                f"sends databases {in_words(route.databases)} to one function: if it identifies keys by name alone, "
                "keys of the same name overwrite each other",
                "have it store db too (dynamodb: DYNAMO_DATABASE_IN_KEY=on), or give each database its own route",
            )


def _with_databases(settings: Settings) -> Settings:
    from engine.redis.databases import with_numbers

    return msgspec.structs.replace(settings, redis=with_numbers(settings.redis))


def _examine_places(settings: Settings, found: Examination) -> None:
    problems = examine_places(settings) + newer_formats(settings) + examine_extras(settings)
    found.findings += [Finding(Verdict.ERROR, problem, EngineError.exit_code) for problem in problems]
    if not problems:
        found.add(Verdict.OK, "state", ", ".join(dict.fromkeys(place.path for place in places_of(settings))))


def _examine_events(settings: Settings, table: RouteTable, topology: Topology, found: Examination) -> None:
    """Say what the routes will not see, under this server's evictions."""
    from engine.capture.preflight import evictions_of

    try:
        policy, is_replica = evictions_of(settings.redis, topology)
    except RedisError:
        # What can't be reached is reported elsewhere.
        policy, is_replica = "", False
    for note in notes_of(table.routes.values(), policy, is_replica=is_replica):
        found.add(Verdict.NOTE, *note)


def _read_routes(
    settings: Settings, routes_of: RoutesOf, previous: RouteTable | None, found: Examination
) -> tuple[RouteTable | None, bool]:
    """Return the table, and whether Redis answered as far as it was asked."""
    from engine.capture.mappings import read_mappings

    prefix, is_redis_well = settings.original.mapping_prefix, True
    mappings: dict[str, dict[str, str]] = {}
    if prefix:
        try:
            mappings = read_mappings(settings.redis, prefix)
        except RedisError as error:
            found.add_error("redis", error)
            is_redis_well = False
    databases = databases_of(settings.redis, parse_url(settings.redis.url).database)
    try:
        routes = tuple(route_inside(route, databases) for route in routes_of(settings, mappings))
    except ConfigError as error:
        found.add_error("routes", error)
        return None, is_redis_well
    if not routes and not prefix:
        problem = Problem("routes", "no routes are configured", "add a [[routes]] table with a name and a function")
        found.add_error("routes", ConfigError([problem]))
        return None, is_redis_well
    found.add(Verdict.OK, "routes", ", ".join(route.name for route in routes) or "none yet")
    streams = streams_of(settings.capture)
    if streams and settings.capture.fields:
        routes = tuple(for_entries(route, streams) for route in routes)
    return RouteTable.build(routes, previous), is_redis_well


def _examine_redis(
    settings: Settings, table: RouteTable, found: Examination, *, changes_nothing: bool, is_running: bool
) -> CapturePlan | None:
    from engine.capture.preflight import prepare_capture

    may_set = settings.redis.set_notifications
    redis = msgspec.structs.replace(settings.redis, set_notifications=may_set and not changes_nothing)
    denied: tuple[str, ...] = ()
    try:
        if not is_running:
            denied = _examine_rights(settings, table, found, is_told=changes_nothing)
        capture = prepare_capture(msgspec.structs.replace(settings, redis=redis), table, is_running=is_running)
    except NotificationsOff as error:
        if changes_nothing and may_set:
            found.add(
                Verdict.NOTE,
                "redis",
                error.message,
                "the engine adds missing flags at start, if its user may",
            )
        else:
            found.add_error("redis", error)
        for warning in (*error.warnings, *denied):
            found.add(Verdict.NOTE, "redis", warning)
        return None
    except RedisError as error:
        found.add_error("redis", error)
        return None
    capture = msgspec.structs.replace(capture, warnings=(*capture.warnings, *denied))
    notifies = " and notifies" if settings.capture.source == "keyspace" else ""
    found.add(Verdict.OK, "redis", f"{capture.server} answers{notifies}")
    for line in _lines_of(capture):
        found.add(Verdict.OK, "node", line)
    for warning in capture.warnings:
        found.add(Verdict.NOTE, "redis", warning)
    return capture


def _examine_rights(settings: Settings, table: RouteTable, found: Examination, *, is_told: bool) -> tuple[str, ...]:
    """Return what the user should be allowed and is not; if ``is_told``, note the smallest sufficient rights."""
    from engine.supervision.errands.rights import look_at_rights

    look = look_at_rights(settings, table)
    if is_told:
        for command in look.commands:
            found.add(Verdict.OK, "rights", f"the smallest user: {command}")
        if look.sentinel_command:
            found.add(Verdict.OK, "rights", f"the smallest user of the Sentinels: {look.sentinel_command}")
    return look.warnings


def _lines_of(capture: CapturePlan) -> list[str]:
    """Return a line for each node of a cluster: its slots, and the shards that listen to it."""
    shards: dict[str, list[int]] = {}
    for shard, feeds in enumerate(capture.feeds, 1):
        for feed in feeds:
            shards.setdefault(feed.node.id, []).append(shard)
    return [
        f"{node.id[:8]} at {node.address}: {ranges_in_words(node.slots)}; {_shards_in_words(shards.get(node.id, []))}"
        for node in capture.topology.nodes
        if capture.topology.is_cluster
    ]


def _shards_in_words(shards: list[int]) -> str:
    if not shards:
        return "of another slice"
    return f"shard{'s' if len(shards) > 1 else ''} {', '.join(map(str, shards))}"
