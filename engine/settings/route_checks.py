"""What a route may contain: limits as in AWS event source mappings, functions, events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from engine.aws.failure_arns import check_on_failure
from engine.aws.function_arns import FORMS, is_function, region_in
from engine.aws.target_arns import parse_target_arn
from engine.config import RouteSettings
from engine.destination.base import check_destination
from engine.errors import Problem
from engine.model import ROUTE_SLOTS_MAX
from engine.routing.events import (
    CHANGES,
    COMMANDS_PUBLISHED_AS,
    EVENT_CHARS_MAX,
    GROUPS,
    class_of,
    close_events,
)
from engine.routing.glob import has_open_class
from engine.text import counted

NAME_CHARS_MAX = 255
PATTERNS_MAX = 100
PATTERN_BYTES_MAX = 4_096
REPORT_ITEM_FAILURES = "ReportBatchItemFailures"

_FUNCTION_FORMS = f"{FORMS}; a Kinesis stream or an SQS queue by ARN"

PlacedRoute = tuple[str, RouteSettings]
"""Where a route was configured, and its settings."""


def check_together(routes: Sequence[PlacedRoute]) -> list[Problem]:
    """Return what is wrong with these routes together: two with the same name, too many."""
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for place, route in routes:
        if route.name in first:
            problems.append(Problem(place, "has the name of another route", f"the other is {first[route.name]}"))
        first.setdefault(route.name, place)
    if len(routes) > ROUTE_SLOTS_MAX:
        problems.append(
            Problem(
                "routes",
                f"{len(routes)} routes are configured, and at most {ROUTE_SLOTS_MAX} are allowed",
                "one route takes many patterns (keys) and events; or run a second engine",
            )
        )
    return problems


Finding = tuple[str, str, str]
"""Option, what is wrong with it, hint."""


def check_route(place: str, route: RouteSettings) -> list[Problem]:
    """Return all that is wrong with one route."""
    return [Problem(f"{place}: {option}", message, hint) for option, message, hint in check_options(route)]


def check_options(route: RouteSettings) -> Iterator[Finding]:
    """Yield all that is wrong with a route's options."""
    yield from _check_names(route)
    yield from _check_keys(route.keys)
    yield from check_events(route.events)
    yield from _check_numbers(route)
    if route.include_expiry and route.payload == "original":
        yield "include_expiry", "does not fit into the original's payload", 'set payload = "batch", or leave it out'
    if route.skip_unchanged and not route.coalesce:
        yield (
            "skip_unchanged",
            "cannot be combined with coalesce = false, where each event is a record",
            "leave out one of them",
        )
    if finding := check_on_failure(route.on_failure):
        yield "on_failure", *finding
    if finding := check_destination(route.destination):
        yield "destination", *finding


def _check_names(route: RouteSettings) -> Iterator[Finding]:
    name = route.name
    if not (0 < len(name) <= NAME_CHARS_MAX and name.isprintable()):
        yield "name", "must be printable text", f"1 to {NAME_CHARS_MAX} characters"
    if parse_target_arn(route.function) is not None:
        if route.payload == "original":
            yield "payload", "is for functions, and the route's is a stream or a queue", 'set payload = "batch"'
    elif not is_function(route.function):
        yield "function", f"{route.function[:200]!r} is not a function's name or ARN", _FUNCTION_FORMS
    for kind in route.function_response_types:
        if kind != REPORT_ITEM_FAILURES:
            yield (
                "function_response_types",
                f"{kind!r} is not a response type",
                f'"{REPORT_ITEM_FAILURES}" is the only one; [] for none',
            )


def _check_keys(keys: Sequence[str]) -> Iterator[Finding]:
    if not 0 < len(keys) <= PATTERNS_MAX:
        yield "keys", f"has {counted(len(keys), 'pattern')}", f'1 to {PATTERNS_MAX}; ["*"] is every key'
    for pattern in keys:
        try:
            size = len(pattern.encode())
        except UnicodeEncodeError:
            # A mapping hash may hold any bytes; what is not UTF-8 arrives as lone surrogates.
            yield "keys", f"pattern {pattern[:40]!r} is not UTF-8", "? matches any one byte"
            continue
        if size > PATTERN_BYTES_MAX:
            yield "keys", f"pattern {pattern[:40]!r}… has {size} bytes", f"allowed: {PATTERN_BYTES_MAX}"
        elif has_open_class(pattern.encode()):
            yield (
                "keys",
                f"pattern {pattern[:40]!r} has a [ without its ]",
                r"close it, or write \[ for the bracket itself",
            )


def check_events(events: Sequence[str]) -> Iterator[Finding]:
    """Yield what is wrong with a route's events."""
    if not events:
        yield "events", "is empty", f'list the events that matter: ["hset"]; "{CHANGES}" is all but evictions'
    for event in events:
        if len(event) > EVENT_CHARS_MAX:
            yield "events", f"{event[:40]!r}… is too long", f"allowed: {EVENT_CHARS_MAX} characters"
        elif event not in GROUPS and not class_of(event):
            yield "events", f"{event!r} is not an event of Redis or Valkey", _event_hint(event)


def _event_hint(event: str) -> str:
    if published := COMMANDS_PUBLISHED_AS.get(event.lower()):
        return f"the command {event.upper()} is published as {published!r}"
    if close := close_events(event):
        return f"did you mean {' or '.join(map(repr, close))}?"
    return "events are named as Redis names them: hset, set, del, expired, json.set"


def _check_numbers(route: RouteSettings) -> Iterator[Finding]:
    ranges: tuple[tuple[str, float, float], ...] = (
        ("batch_size", 1, 10_000),
        ("maximum_batching_window_in_seconds", 0, 300),
        ("parallelization_factor", 1, 10),
        ("maximum_retry_attempts", -1, 10_000),
    )
    for option, low, high in ranges:
        value = getattr(route, option)
        if not low <= value <= high:
            never = "; -1 is forever" if low == -1 else ""
            yield option, f"is {value}", f"allowed: {low} to {high}{never}, as in AWS event source mappings"
    age_s = route.maximum_record_age_in_seconds
    if age_s != -1 and not 60 <= age_s <= 604_800:
        yield "maximum_record_age_in_seconds", f"is {age_s}", "allowed: -1 (forever), or 60 to 604800 (7 days)"


def check_regions(routes: Iterable[PlacedRoute], region: str, option: str = "function") -> list[Problem]:
    """Return the routes whose function is not in the region that the engine calls.

    ``option`` is the name of the function's setting where these routes are configured.
    """
    return [
        Problem(
            f"{place}: {option}",
            f"is in {region_in(route.function)}, and the engine calls {region}",
            "set aws.region, or run one engine for each region",
        )
        for place, route in routes
        if region and region_in(route.function) not in {"", region}
    ]
