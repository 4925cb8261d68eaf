"""`engine audit`: every route that names a destination, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from engine.audit.compare import Progress, RouteAudit
from engine.audit.deletions import NOTHING_HELD
from engine.audit.extras import spared_keys
from engine.audit.held_file import HeldFile, KeptKeys
from engine.audit.options import AuditOptions
from engine.audit.server import Server
from engine.audit.verdict import RouteReport, is_absence_known
from engine.aws.function_arns import region_in
from engine.config import RouteSettings, Settings
from engine.destination.base import Destination, parse_destination
from engine.destination.dynamodb import DynamoDb
from engine.destination.patience import Patience
from engine.destination.stored import stored_keys
from engine.errors import ConfigError, EngineError, Problem
from engine.marks.standing import read_standing
from engine.redis.address import parse_url
from engine.redis.databases import known_inside
from engine.routing.slices import parse_slice
from engine.text import counted

NOBODYS_KEYS = KeptKeys()


def no_engine(unheard: int) -> EngineError:
    """Return the error for marks of a repair that no engine is known to have."""
    return EngineError(
        f"no engine has settled, or heard of, {counted(unheard, 'key')} to be repaired",
        hint="start the engine with these settings, here, then run this again",
    )


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit found, route by route."""

    routes: tuple[RouteReport, ...]

    @property
    def unheard(self) -> int:
        """Return how many marks of a repair no engine is known to have."""
        return sum(route.unheard for route in self.routes)

    @property
    def exit_code(self) -> int:
        """Return 0 if everything is equal, else 1."""
        return 1 if any(route.differences or route.unheard or route.held for route in self.routes) else 0

    def as_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        return {"exit_code": self.exit_code, "routes": [route.as_json() for route in self.routes]}


def run_audit(settings: Settings, route_name: str | None, options: AuditOptions, progress: Progress) -> AuditReport:
    """Compare Redis with the destinations of all routes, or of one.

    Raises `ConfigError` if there is nothing to compare, `RedisError` or `DestinationError` if a side fails.
    """
    settings = known_inside(settings)
    routes = chosen(settings.routes, route_name)
    tell = partial(_tell, progress)
    return audit_routes(
        settings, routes, options, progress, lambda route: open_destination(route, settings, options, tell)
    )


def _tell(progress: Progress, text: str) -> None:
    progress(text, 0, None)


def audit_routes(
    settings: Settings,
    routes: Iterable[RouteSettings],
    options: AuditOptions,
    progress: Progress,
    destination_of: Callable[[RouteSettings], Destination],
) -> AuditReport:
    """Compare these routes' destinations."""
    database = parse_url(settings.redis.url).database
    server = Server(settings, database, "engine-audit")
    try:
        may_evict = server.may_evict()
        is_spared = spared_keys(settings.routes, may_evict)
        held, kept = HeldFile.of(settings).load(), HeldFile.of(settings).load_kept()
        kept_tests = [_are_among(keys, server) for keys in kept.values()]

        def is_kept(key: bytes) -> bool:
            return any(test(key) for test in kept_tests)

        marker = server.marker(lambda: read_standing(settings.supervision.status_file))
        is_of_slice = server.slice_test(parse_slice(settings.capture.slice))
        return AuditReport(
            tuple(
                RouteAudit(
                    route,
                    server,
                    destination_of(route),
                    options,
                    marker,
                    database=server.database,
                    mapping_prefix=server.mapping_prefix(settings),
                    is_of_slice=is_of_slice,
                    is_absence_known=is_absence_known(route, may_evict),
                    # A mark reaches every route: a deletion refused for one route is not marked at all.
                    is_spared=lambda key: is_spared(key) or is_kept(key),
                    is_refused=_are_among(kept.get(route.name, NOBODYS_KEYS), server),
                    is_held=held.routes.get(route.name, NOTHING_HELD).is_undecided,
                    progress=progress,
                ).run()
                for route in routes
            )
        )
    finally:
        server.close()


def _are_among(kept: KeptKeys, server: Server) -> Callable[[bytes], bool]:
    """Return the test whether a key is among these, under any name that it may have had."""
    return lambda key: any(name in kept for name in server.names_of(key))


def open_destination(
    route: RouteSettings, settings: Settings, options: AuditOptions, tell: Callable[[str], None] = lambda text: None
) -> Destination:
    """Return the route's destination, without contacting it yet. ``tell`` is called when it is slow."""
    region = settings.aws.region or region_in(route.function)
    return DynamoDb(
        parse_destination(route.destination),
        region,
        stored=stored_keys(route, settings),
        connections_max=2 * options.workers,
        patience=Patience(options.trouble_s_max, tell=tell),
    )


def chosen(routes: Iterable[RouteSettings], name: str | None) -> list[RouteSettings]:
    """Return the routes to compare; raise `ConfigError` if there are none."""
    hint = 'say what its function writes to: destination = "dynamodb://TABLE"'
    known = list(routes)
    if name is None:
        found = [route for route in known if route.destination]
        if not found:
            raise ConfigError([Problem("routes", "none names a destination, so there is nothing to compare", hint)])
        return found
    found = [route for route in known if route.name == name]
    if not found:
        names = ", ".join(route.name for route in known) or "none"
        raise ConfigError([Problem("--route", f"no route is named {name!r}", f"routes: {names}")])
    if not found[0].destination:
        raise ConfigError([Problem(f"route {name!r}", "names no destination", hint)])
    return found
