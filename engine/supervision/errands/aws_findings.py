"""Checks what the routes name at AWS before a start, in parallel to Redis: functions, streams, queues, destinations.

Only what somebody must fix keeps the engine from starting. What passes is reported, and met again at the first
delivery: a function that is being updated, a throttle, an outage, an endpoint that says nothing for longer than a start
may take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.clock import monotonic_ms
from engine.config import RouteSettings, Settings
from engine.errors import EngineError, Problem
from engine.routing.databases import inside
from engine.supervision.errands.findings import Finding, Verdict, finding

DESTINATION = ": destination"
SEGMENTS_OF_A_LOOK = 1_000_000
"""A scan in this many parts, of which one is read, costs next to nothing."""

_NOBODYS = b"engine"
"""A name to ask for, whether or not it exists."""

SHARE_OF_READY_TIMEOUT = 0.75
"""The rest is for Redis, and for what a planner does afterwards."""


@dataclass(slots=True)
class Seen:
    """What was found, and the functions that keep older values out by themselves."""

    findings: list[Finding] = field(default_factory=list)
    refusing: set[str] = field(default_factory=set)


Look = Callable[[Settings, Sequence[RouteSettings]], Seen]


class AwsLook:
    """Looks in separate threads, which are waited for no longer than a start may take."""

    def __init__(
        self, settings: Settings, routes: Sequence[RouteSettings], looks: Sequence[tuple[str, Look]] = ()
    ) -> None:
        wait_s = settings.supervision.ready_timeout_s * SHARE_OF_READY_TIMEOUT
        self._until_ms = monotonic_ms() + int(wait_s * 1_000)
        self._wait_s = wait_s
        looks = looks or (("functions", look_at_functions), ("destinations", look_at_destinations))
        self._looks = [_Look(place, look, settings, routes) for place, look in looks]

    def seen(self) -> Seen:
        """Return what was seen in time; a function that did not answer has promised nothing."""
        seen = Seen()
        for look in self._looks:
            look.join(max(0.0, (self._until_ms - monotonic_ms()) / 1_000))
            if look.is_alive():
                hint = "the engine starts, and retries; check the network path, or raise supervision.ready_timeout_s"
                what = f"AWS did not answer within {self._wait_s:g} s"
                seen.findings.append(finding(Verdict.NOTE, look.place, what, hint))
            else:
                result = look.result()
                seen.findings += result.findings
                seen.refusing |= result.refusing
        return seen


class _Look(threading.Thread):
    def __init__(self, place: str, look: Look, settings: Settings, routes: Sequence[RouteSettings]) -> None:
        super().__init__(name=f"look-{place}", daemon=True)
        self.place = place
        self._look, self._settings, self._routes = look, settings, routes
        self._seen = Seen()
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Look."""
        try:
            self._seen = self._look(self._settings, self._routes)
        except Exception as error:  # raised again when the result is asked for
            self._error = error

    def result(self) -> Seen:
        """Return what was seen; raise what was raised."""
        if self._error is not None:
            raise self._error
        return self._seen


def look_at_functions(settings: Settings, routes: Sequence[RouteSettings]) -> Seen:
    """Check whether functions, streams and queues exist, may be used and are set up, and what functions promise."""
    from engine.aws.target_arns import parse_target_arn
    from engine.delivery.targets.check import check_functions
    from engine.delivery.targets.make import check_places
    from engine.delivery.targets.probe import probe_functions

    places = [(f"route {route.name!r}", route.function) for route in routes]
    arns = {function: parse_target_arn(function) for _, function in places}
    others = [(place, arn) for place, function in places if (arn := arns[function]) is not None]
    functions = [(place, function) for place, function in places if arns[function] is None]
    seen = Seen()
    try:
        problems = check_functions(functions, settings.aws, settings.delivery)
        problems += check_places(others, settings.aws, settings.delivery)
        if all(problem.passes for problem in problems):
            named = {problem.place for problem in problems}
            taking_batches = {route.function for route in routes if route.payload == "batch"}
            batches = [one for one in functions if one[1] in taking_batches and one[0] not in named]
            probe = probe_functions(batches, settings.aws, settings.delivery)
            problems += probe.problems
            seen.refusing = probe.refusing
    except EngineError as error:
        seen.findings = [Finding(Verdict.ERROR, Problem("functions", error.message, error.hint), error.exit_code)]
        return seen
    seen.findings = [
        Finding(Verdict.NOTE, problem) if problem.passes else Finding(Verdict.ERROR, problem, 1) for problem in problems
    ]
    if places and not problems:
        seen.findings.append(finding(Verdict.OK, "functions", ", ".join(sorted({function for _, function in places}))))
    return seen


def look_at_destinations(settings: Settings, routes: Sequence[RouteSettings]) -> Seen:
    """Check whether destinations can be read; without, the engine delivers, but finds no keys deleted in a gap."""
    named = {route.destination: route for route in routes if route.destination}
    seen = Seen()
    if not named:
        return seen
    from engine.audit.options import AuditOptions
    from engine.audit.run import open_destination

    for value, route in named.items():
        place = f"route {route.name!r}{DESTINATION}"
        try:
            destination = open_destination(route, settings, AuditOptions(workers=1))
            destination.get([inside(route.databases[0], _NOBODYS) if route.databases else _NOBODYS])
            next(destination.scan(0, SEGMENTS_OF_A_LOOK), None)
        except EngineError as error:
            seen.findings.append(finding(Verdict.NOTE, place, error.message, error.hint))
        else:
            seen.findings.append(finding(Verdict.OK, place, f"{value} can be read"))
    return seen
