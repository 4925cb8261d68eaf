"""Reads the settings: defaults, then the file, then the environment, then flags. All problems at once.

The order in the environment: the original's variables, ``REDIS_URL``, ``ENGINE_<SECTION>_<KEY>``; later ones override
earlier ones.
"""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from engine.aws.function_arns import region_in
from engine.config import Settings
from engine.errors import ConfigError
from engine.redis.credentials import BadSecret, read_secret
from engine.redis.url import FORMS, split_url
from engine.redis.url_options import BadRedisUrl
from engine.routing.slices import FORMS as FORMS_OF_SLICES
from engine.routing.slices import BadSlice, parse_slice
from engine.settings import original
from engine.settings.checks import check_values
from engine.settings.console_checks import check_console
from engine.settings.database_checks import check_databases, settle_databases
from engine.settings.draft import KEYS, Draft, closest, hint_for_key
from engine.settings.origins import connection_of
from engine.settings.otlp_checks import check_otlp
from engine.settings.paths import root_paths, settle_state
from engine.settings.route_checks import (
    PlacedRoute,
    check_events,
    check_regions,
    check_route,
    check_together,
)
from engine.settings.scan_checks import check_scans
from engine.settings.server_checks import check_server
from engine.settings.stream_checks import check_streams

_FILE_BYTES_MAX = 4_194_304
_ENVIRONMENT = {f"ENGINE_{key.replace('.', '_').upper()}": key for key in KEYS} | {"ENGINE_SLICE": "capture.slice"}
_KUBERNETES = re.compile(r"\w+(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_FLAGS = {
    "capture.shards": "--shards",
    "capture.slice": "--slice",
    "delivery.invokers": "--invokers",
    "console.listen": "--console",
}

_EXAMPLE_ROUTE = 'add to the file: [[routes]] name = "carts" function = "dynamodb", each on a line of its own'


class Loaded(NamedTuple):
    """The settings in force, and the connection's settings with their origins (`engine.settings.origins`)."""

    settings: Settings
    connection: Mapping[str, str]


def load_settings(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Return the settings in force; raise `ConfigError` with all of their problems.

    ``flags`` are named by dotted key (``capture.shards``); one that is None was not given.
    """
    return load(path, environ, flags).settings


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Return the settings in force with the origins of some; raise as `load_settings` does."""
    draft = Draft()
    if path is not None:
        _read_file(draft, path)
        root_paths(draft, Path(path).absolute().parent)
    _read_environment(draft, environ)
    _read_flags(draft, flags)
    root_paths(draft, Path.cwd())
    settle_state(draft, environ)
    _read_credentials(draft)
    _split_url(draft)
    settle_databases(draft)
    _find_aws(draft, environ)
    _find_function_cfg(draft, environ)
    _settle_slice(draft)
    check_values(draft)
    mapped = _check_all_routes(draft)
    _check_region(draft, mapped)
    check_server(draft)
    check_console(draft)
    check_otlp(draft)
    check_streams(draft)
    check_scans(draft, [*draft.routes, *mapped])
    if draft.problems:
        raise ConfigError(draft.problems)
    return Loaded(draft.settings(), connection_of(draft))


def load_state_settings(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Return where the engine keeps its state, and AWS's settings for metrics: all that is needed to look at it.

    Everything else has its default, and its mistakes do not matter. Raises `ConfigError`.
    """
    draft = Draft(("supervision", "aws"))
    if path is not None:
        _read_file(draft, path)
        root_paths(draft, Path(path).absolute().parent)
    _read_variables(draft, environ)
    root_paths(draft, Path.cwd())
    settle_state(draft, environ)
    _find_aws(draft, environ)
    if draft.problems:
        raise ConfigError(draft.problems)
    return draft.settings()


def _read_file(draft: Draft, path: str) -> None:
    draft.is_whole = False
    try:
        with Path(path).open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        draft.say(path, f"can't be read: {error.strerror or error}", "is the path right?")
        return
    if len(content) > _FILE_BYTES_MAX:
        draft.say(path, "is too long for settings", f"allowed: {_FILE_BYTES_MAX} bytes")
        return
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        draft.say(f"{path}:{line}", "is not UTF-8", "TOML is always UTF-8")
    except tomllib.TOMLDecodeError as error:
        place, message = _place_of(error, path, content)
        draft.say(place, f"is not valid TOML: {message}", "strings need quotes; see https://toml.io")
    else:
        draft.is_whole = True
        draft.read_document(document, path)


def _place_of(error: tomllib.TOMLDecodeError, path: str, content: bytes) -> tuple[str, str]:
    message = str(error)
    if match := re.search(r" \(at line (\d+), column (\d+)\)$", message):
        return f"{path}:{match[1]}:{match[2]}", message[: match.start()]
    lines = content.decode().split("\n")
    return f"{path}:{len(lines)}:{len(lines[-1]) + 1}", message.removesuffix(" (at end of document)")


def _read_environment(draft: Draft, environ: Mapping[str, str]) -> None:
    given, problems = original.read_environment(environ)
    draft.problems += problems
    for entry in given:
        draft.set(entry.key, entry.value, entry.place)
    if url := environ.get("REDIS_URL"):
        draft.set("redis.url", url, "environment: REDIS_URL")
    _read_variables(draft, environ)


def _read_variables(draft: Draft, environ: Mapping[str, str]) -> None:
    """Take in the variables that are named as our settings are."""
    for name, value in environ.items():
        if not name.startswith("ENGINE_") or _KUBERNETES.fullmatch(name):
            continue
        place = f"environment: {name}"
        if name in _ENVIRONMENT:
            draft.set(_ENVIRONMENT[name], value, place, is_text=True)
        elif name.startswith("ENGINE_ROUTES"):
            draft.say(place, "unknown setting", "routes come from the file: [[routes]]")
        else:
            hint = closest(name, _ENVIRONMENT) or "variables are named ENGINE_<SECTION>_<KEY>"
            draft.say(place, "unknown setting", hint)


def _read_flags(draft: Draft, flags: Mapping[str, object]) -> None:
    for key, value in flags.items():
        place = _FLAGS.get(key, f"--{key.replace('.', '-').replace('_', '-')}")
        if value is None:
            continue
        if key in KEYS:
            draft.set(key, value, place, is_text=True)
        else:
            draft.say(place, "unknown setting", hint_for_key(key) if "." in key else closest(key, KEYS))


def _read_credentials(draft: Draft) -> None:
    for name in ("username", "password", "sentinel_password"):
        key, file_key = f"redis.{name}", f"redis.{name}_file"
        path = draft.get(file_key)
        if not path:
            continue
        place = draft.place(file_key)
        if draft.get(key):
            draft.say(place, f"and {draft.place(key)} both give the {name}", "keep one of them")
            continue
        try:
            draft.set(key, read_secret(path), place)
        except OSError as error:
            draft.say(place, f"{path} can't be read: {error.strerror or error}", "who may read it?")
        except BadSecret:
            draft.say(place, f"{path} holds no {name}", "one line of text (UTF-8), and nothing else")


def _split_url(draft: Draft) -> None:
    """Check the URL and move its credentials to where they belong, so that nothing shows them."""
    place = draft.place("redis.url")
    if not draft.get("redis.url").strip():
        return
    try:
        url = split_url(draft.get("redis.url").strip())
    except BadRedisUrl as error:
        draft.say(place, f"the URL {error}", f"{FORMS}; give a password in ENGINE_REDIS_PASSWORD, or with %-escapes")
        return
    draft.set("redis.url", url.bare, place)
    for name, value in (("username", url.username), ("password", url.password)):
        key = f"redis.{name}"
        if value and draft.get(key) not in {"", value}:
            draft.say(place, f"the URL and {draft.place(key)} give different {name}s", "keep one of them")
        elif value:
            draft.set(key, value, place)
    for name, value in url.settings.items():
        key = f"redis.{name}"
        if draft.is_set(key) and draft.get(key) != value:
            draft.say(place, f"the URL and {draft.place(key)} disagree on {key}", "keep one of them")
        else:
            draft.set(key, value, place)


def _settle_slice(draft: Draft) -> None:
    """Replace what the host name determines."""
    try:
        named = parse_slice(draft.get("capture.slice"), socket.gethostname())
    except BadSlice as error:
        draft.say(draft.place("capture.slice"), f"{draft.get('capture.slice')[:40]!r} {error}", FORMS_OF_SLICES)
        draft.forget("capture.slice")
    else:
        draft.set("capture.slice", str(named), draft.place("capture.slice"))


def _find_aws(draft: Draft, environ: Mapping[str, str]) -> None:
    """Take from AWS's own variables what ours leave out."""
    for key, names in (
        ("aws.region", ("AWS_REGION", "AWS_DEFAULT_REGION")),
        ("aws.lambda_endpoint_url", ("AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL")),
    ):
        name = next((name for name in names if environ.get(name)), None)
        if name and not draft.get(key):
            draft.set(key, environ[name], f"environment: {name}")


def _find_function_cfg(draft: Draft, environ: Mapping[str, str]) -> None:
    """Do as the original did where it is its environment: read ``functionCfg`` in the working directory."""
    if (
        original.is_in_use(environ)
        and not draft.is_set("original.function_cfg_file")
        and Path(original.FUNCTION_CFG_FILE).is_file()
    ):
        place = f"the original's {original.FUNCTION_CFG_FILE}"
        draft.set("original.function_cfg_file", original.FUNCTION_CFG_FILE, place)
    if draft.get("original.function_cfg_file") and not draft.get("original.mapping_prefix"):
        draft.set("original.mapping_prefix", original.MAPPING_PREFIX, draft.place("original.function_cfg_file"))


def _check_all_routes(draft: Draft) -> list[PlacedRoute]:
    """Check the file's routes and ``functionCfg``; return those of the latter."""
    if draft.get("original.mapping_prefix"):
        place = draft.place("original.supported_commands")
        for _, message, hint in check_events(draft.get("original.supported_commands")):
            draft.say(place, message, hint)
    elif draft.is_whole and not draft.route_count:
        draft.say("routes", "no routes are configured", _EXAMPLE_ROUTE)
    mapped, problems = original.original_routes(draft.settings(), {})
    draft.problems += problems
    for place, route in draft.routes:
        draft.problems += check_route(place, route)
    draft.problems += check_together([*draft.routes, *mapped])
    if not draft.problems:
        draft.problems += check_databases(draft.settings(), draft.routes)
    return mapped


def _check_region(draft: Draft, mapped: list[PlacedRoute]) -> None:
    """Settle the region: the configured one, else the one that the functions' ARNs agree on."""
    region = draft.get("aws.region")
    if not region:
        regions = {region_in(route.function) for _, route in [*draft.routes, *mapped]} - {""}
        if len(regions) == 1:
            region = regions.pop()
            draft.set("aws.region", region, "the functions' ARNs")
        elif draft.is_whole:
            message = "functions are in several regions" if regions else "no region is configured"
            draft.say("aws.region", message, "set AWS_REGION, or aws.region in the file")
    if not draft.get("aws.lambda_endpoint_url"):
        draft.problems += check_regions(draft.routes, region)
        draft.problems += check_regions(mapped, region, "lambda")
