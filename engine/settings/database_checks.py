"""Checks of which databases are captured, and what routes do with several; the database in the URL is settled here."""

from __future__ import annotations

from collections.abc import Iterable

from engine.config import RouteSettings, Settings
from engine.destination.base import parse_destination
from engine.errors import Problem
from engine.redis.address import SENTINEL, parse_url, parts_of, with_database
from engine.redis.url import DATABASE_MAX
from engine.routing.databases import ALL, DATABASES_MAX, databases_of, in_words
from engine.routing.glob import takes_everything
from engine.settings.draft import Draft

KEY = "redis.databases"
_FORM = 'as in databases = [0, 1], or "*" for all of the server'


def settle_databases(draft: Draft) -> None:
    """Check the list. A single database becomes the URL's; with several, the URL has that of the engine's own keys."""
    if not draft.is_set(KEY):
        return
    named, place = draft.get(KEY), draft.place(KEY)
    if problem := _problem(named):
        draft.say(place, *problem)
        draft.forget(KEY)
        return
    try:
        url = draft.get("redis.url")
        of_url = None if draft.origin("redis.url") == "default" else _named_by(url)
    except ValueError:
        # The check of the URL reports that.
        draft.forget(KEY)
        return
    if isinstance(named, str):
        return
    numbers = tuple(sorted(named))
    if of_url is not None and of_url not in numbers:
        draft.say(
            place,
            f"does not hold {of_url}, the database that {draft.place('redis.url')} names",
            "leave the database out of the URL, or add it here",
        )
        return
    home = numbers[0] if of_url is None else of_url
    draft.set("redis.url", with_database(url, home), draft.place("redis.url"))
    draft.set(KEY, numbers if len(numbers) > 1 else "", place)


def _problem(named: tuple[int, ...] | str) -> tuple[str, str] | None:
    if isinstance(named, str):
        return None
    twice = sorted({number for number in named if named.count(number) > 1})
    if not named:
        return "names no database", f"{_FORM}; leave it out for the one of redis.url"
    if twice:
        return f"names {in_words(twice)} twice", "name each once"
    wrong = [number for number in named if not 0 <= number <= DATABASE_MAX]
    if wrong:
        return f"names {wrong[0]}, which is not a database", f"numbers from 0, {_FORM}"
    if len(named) > DATABASES_MAX:
        return f"names {len(named)} databases, and {DATABASES_MAX} are allowed", "run a second engine for the others"
    return None


def _named_by(url: str) -> int | None:
    """Return the database that a URL names, None if it names none."""
    address, parts = parse_url(url), parts_of(url)
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    if SENTINEL in parts.scheme:
        path = path.partition("/")[2]
    return address.database if path or "db=" in parts.query else None


def check_databases(settings: Settings, routes: Iterable[tuple[str, RouteSettings]]) -> list[Problem]:
    """Return what is wrong with the databases of routes; what ``"*"`` stands for may not be known yet."""
    numbers: tuple[int, ...] = ()
    if settings.redis.databases != ALL:
        numbers = databases_of(settings.redis, parse_url(settings.redis.url).database).numbers
    are_several = len(numbers) != 1
    problems: list[Problem] = []
    stored: dict[str, list[tuple[str, RouteSettings]]] = {}
    for place, route in routes:
        if finding := _of_route(route, numbers, are_several=are_several):
            problems.append(Problem(f"{place}: {finding[0]}", *finding[1:]))
        elif are_several and route.destination:
            problems += _meeting(place, route, stored)
    return problems


def _of_route(route: RouteSettings, numbers: tuple[int, ...], *, are_several: bool) -> tuple[str, str, str] | None:
    twice = len(set(route.databases)) < len(route.databases)
    strange = [number for number in route.databases if number < 0 or (numbers and number not in numbers)]
    if twice:
        return "databases", "names one twice", "name each once"
    if strange:
        captured = f"captured: {in_words(numbers)}" if numbers else "numbers from 0"
        return "databases", f"names {strange[0]}, which is not captured", f"{captured}; see redis.databases"
    if are_several and route.payload == "original" and len(route.databases) != 1:
        hint = 'databases = [0], or payload = "batch"'
        return "payload", "is the original's, which does not say which database a key is in: name one", hint
    if are_several and route.destination and len(route.databases) != 1 and not _keeps_apart(route):
        return (
            "destination",
            "has one item for keys of the same name in several databases: the last write would win",
            "set DYNAMO_DATABASE_IN_KEY=on for its function and add database_in_key=on here, or a route and a table "
            "for each database: databases = [0]",
        )
    return None


def _keeps_apart(route: RouteSettings) -> bool:
    try:
        return parse_destination(route.destination).database_in_key
    except ValueError:
        # The check of the destination reports that.
        return True


def _meeting(place: str, route: RouteSettings, stored: dict[str, list[tuple[str, RouteSettings]]]) -> list[Problem]:
    """Return a problem if a route writes keys of another database to a table where they meet those of an earlier route.

    Routes that share no glob are assumed to have different keys.
    """
    if _keeps_apart(route):
        return []
    before = stored.setdefault(parse_destination(route.destination).table, [])
    met = [other for other, one in before if one.databases != route.databases and _share_keys(one, route)]
    before.append((place, route))
    return [
        Problem(
            f"{place}: destination",
            f"is the table of {other}, for keys of another database: keys of the same name would share an item",
            "a table for each database, or database_in_key=on, and DYNAMO_DATABASE_IN_KEY=on for the functions",
        )
        for other in met[:1]
    ]


def _share_keys(one: RouteSettings, other: RouteSettings) -> bool:
    globs = {*one.keys, *other.keys}
    return len(globs) < len(one.keys) + len(other.keys) or any(takes_everything(glob.encode()) for glob in globs)
