"""The 2020 original's setup, as it was: its environment, its ``functionCfg``, its mapping hashes.

The original wrote each line of ``functionCfg`` to Redis, as a hash, and routed by all hashes under a prefix. This
engine writes nothing to its user's cache: a line counts as it is, and a hash of the same key replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from engine.config import RouteSettings, Settings
from engine.errors import ConfigError, Problem
from engine.redis.address import parse_url
from engine.routing.events import COMMANDS_PUBLISHED_AS
from engine.routing.glob import escape
from engine.settings.database_checks import check_databases
from engine.settings.draft import closest
from engine.settings.route_checks import PlacedRoute, check_options, check_regions, check_together

FUNCTION_CFG_FILE = "functionCfg"
MAPPING_PREFIX = "__meta_record__"
MAPPING_FIELDS = ("name", "pattern", "lambda")

_CHANNEL = re.compile(r"__key(?:\*|(?:event|space|\*)@(?:(\d{1,9})|\*))__:\*")
"""The sample's own is ``__key*__:*``: the events of every database, whose keys it looked for in the first."""
_FILE_BYTES_MAX = 1_048_576
_PARALLELIZATION_FACTOR = 10
"""The original invoked with one record at a time; concurrent invocations make up for some of that."""


class Given(NamedTuple):
    """A setting that the original's environment gives: dotted key, value, place."""

    key: str
    value: object
    place: str


class MappingHash(NamedTuple):
    """One of the original's mappings: where it was found, and the fields of its hash."""

    place: str
    fields: dict[str, str]


def is_in_use(environ: Mapping[str, str]) -> bool:
    """Return whether the environment is the original's."""
    return bool(environ.get("REDIS_MASTER_HOST") or environ.get("META_MAP_SUFFIX"))


def read_environment(environ: Mapping[str, str]) -> tuple[list[Given], list[Problem]]:
    """Return what the original's variables mean as settings, and what is wrong with them."""
    if not is_in_use(environ):
        return [], []
    given: list[Given] = []
    problems: list[Problem] = []
    database = _read_channel(environ, problems)
    if host := environ.get("REDIS_MASTER_HOST", "").strip():
        port = _read_port(environ, problems)
        place = f"[{host}]" if ":" in host and not host.startswith("[") else host
        url = f"redis://{place}:{port}/{database}"
        given.append(Given("redis.url", url, "environment: REDIS_MASTER_HOST"))
    if prefix := environ.get("META_MAP_SUFFIX"):
        given.append(Given("original.mapping_prefix", prefix, "environment: META_MAP_SUFFIX"))
    if "SUPPORTED_COMMANDS" in environ:
        place = "environment: SUPPORTED_COMMANDS"
        given.append(Given("original.supported_commands", _read_commands(environ), place))
    return given, problems


def _read_channel(environ: Mapping[str, str], problems: list[Problem]) -> int:
    channel = environ.get("REDIS_SUB_CHANNEL", "").strip()
    match = _CHANNEL.fullmatch(channel)
    if channel and not match:
        problems.append(
            Problem(
                "environment: REDIS_SUB_CHANNEL",
                f"{channel[:80]!r} is not a channel of all keyspace events",
                "__keyevent@0__:* with the number of your database; which events matter is SUPPORTED_COMMANDS",
            )
        )
    return int(match[1]) if match and match[1] else 0


def _read_port(environ: Mapping[str, str], problems: list[Problem]) -> int:
    port = environ.get("REDIS_MASTER_PORT", "").strip() or "6379"
    if port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535:
        return int(port)
    hint = "a number from 1 to 65535"
    if port.startswith("tcp://"):
        hint += "; this one is what Kubernetes sets for a service named redis-master: set your own"
    problems.append(Problem("environment: REDIS_MASTER_PORT", f"{port[:80]!r} is not a valid port", hint))
    return 6379


def _read_commands(environ: Mapping[str, str]) -> list[str]:
    """Return the events in the list of commands.

    A command that is published under another name never matched anything in the original; it is left out.
    """
    names = [name.strip() for name in environ["SUPPORTED_COMMANDS"].split(",")]
    events = [name for name in names if name and name not in COMMANDS_PUBLISHED_AS]
    return events or [name for name in names if name]


def read_function_cfg(path: str, prefix: str) -> tuple[dict[str, MappingHash], list[Problem]]:
    """Return the mappings in a ``functionCfg`` file by their Redis keys, and what is wrong with its lines."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
        if len(content) > _FILE_BYTES_MAX:
            return {}, [Problem(path, "is too long", f"allowed: {_FILE_BYTES_MAX} bytes")]
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        hint = "see original.function_cfg_file"
        return {}, [Problem(path, f"can't be read: {error.strerror or error}", hint)]
    except UnicodeDecodeError:
        return {}, [Problem(path, "is not UTF-8", "see original.function_cfg_file")]
    return parse_function_cfg(lines, path, prefix)


def parse_function_cfg(lines: Iterable[str], path: str, prefix: str) -> tuple[dict[str, MappingHash], list[Problem]]:
    """Read lines of the form ``key | field, value, field, value``.

    Two lines of one key make one mapping, as they made one hash: the later line's fields count.
    """
    mappings: dict[str, MappingHash] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{path}:{number}"
        try:
            key, fields = _parse_line(line, prefix)
        except _BadLine as error:
            problems.append(Problem(place, *error.args))
            continue
        before = mappings[key].fields if key in mappings else {}
        mappings[key] = MappingHash(place, before | fields)
    return mappings, problems


class _BadLine(Exception):
    """Message and hint."""


_LINE_FORM = "KEY | name, NAME, pattern, PREFIX or *, lambda, ARN"


def _parse_line(line: str, prefix: str) -> tuple[str, dict[str, str]]:
    # As in the original, blanks in a line mean nothing.
    key, bar, rest = (part.strip() for part in line.replace(" ", "").partition("|"))
    if not bar or not key:
        raise _BadLine("has no key before a |", _LINE_FORM)
    if not key.startswith(prefix):
        raise _BadLine(
            f"the key {key[:80]!r} does not begin with {prefix!r}",
            "the original never read such a mapping; see META_MAP_SUFFIX or original.mapping_prefix",
        )
    parts = [part.strip() for part in rest.split(",")]
    if parts[-1] == "" and len(parts) % 2:
        parts.pop()
    if len(parts) % 2 or not parts:
        raise _BadLine("has a field without a value", _LINE_FORM)
    return key, dict(zip(parts[::2], parts[1::2], strict=True))


def mapping_route(
    key: str, mapping: MappingHash, events: tuple[str, ...]
) -> tuple[RouteSettings | None, list[Problem]]:
    """Return the route that a mapping describes, or what is wrong with it.

    The original's pattern is a prefix taken literally, or ``*`` alone for every key. ``events`` are not checked here:
    all mappings have the same.
    """
    fields = mapping.fields
    lacking = [
        Problem(
            f"{mapping.place}: {field}",
            "is missing",
            closest(field, fields) or f"a mapping has the fields {', '.join(MAPPING_FIELDS)}",
        )
        for field in ("pattern", "lambda")
        if field not in fields
    ]
    if lacking:
        return None, lacking
    route = RouteSettings(
        name=key,
        function=fields["lambda"],
        keys=(_as_glob(fields["pattern"]),),
        events=events,
        payload="original",
        batch_size=1,
        parallelization_factor=_PARALLELIZATION_FACTOR,
    )
    problems = [
        Problem(f"{mapping.place}: {_FIELD_OF_OPTION[option]}", message, hint)
        for option, message, hint in check_options(route)
        if option in _FIELD_OF_OPTION
    ]
    return (None if problems else route), problems


_FIELD_OF_OPTION = {"name": "key", "function": "lambda", "keys": "pattern"}


def _as_glob(pattern: str) -> str:
    if pattern == "*":
        return pattern
    escaped = escape(pattern.encode("utf-8", "surrogateescape"))
    return escaped.decode("utf-8", "surrogateescape") + "*"


def original_routes(
    settings: Settings, hashes: Mapping[str, Mapping[str, str]]
) -> tuple[list[PlacedRoute], list[Problem]]:
    """Return the routes of ``functionCfg`` and of the mapping hashes, each with its place, and all problems."""
    original = settings.original
    mappings: dict[str, MappingHash] = {}
    problems: list[Problem] = []
    if original.function_cfg_file:
        mappings, problems = read_function_cfg(original.function_cfg_file, original.mapping_prefix)
    for key, fields in hashes.items():
        mappings[key] = MappingHash(f"mapping hash {key!r}", dict(fields))
    routes: list[PlacedRoute] = []
    # The original looked for its keys in one database; its payload does not say which.
    home = (parse_url(settings.redis.url).database,) if settings.redis.databases else ()
    for key, mapping in mappings.items():
        route, found = mapping_route(key, mapping, original.supported_commands)
        problems += found
        if route:
            route = replace(route, databases=home)
            routes.append((mapping.place, route))
    return routes, problems


def routes_of(settings: Settings, mappings: Mapping[str, Mapping[str, str]]) -> tuple[RouteSettings, ...]:
    """Return all routes in force: the file's, those of ``functionCfg``, and those of the mapping hashes in Redis.

    Raises `ConfigError` with all that is wrong with a mapping, or with all of them together.
    """
    placed, problems = original_routes(settings, mappings)
    routes: list[PlacedRoute] = [(f'routes "{route.name}"', route) for route in settings.routes]
    routes += placed
    problems += check_together(routes)
    problems += check_databases(settings, routes)
    if not settings.aws.lambda_endpoint_url:
        problems += check_regions(placed, settings.aws.region, "lambda")
    if problems:
        raise ConfigError(problems)
    return tuple(route for _, route in routes)
