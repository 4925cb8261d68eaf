"""Settings while they are being gathered: values in layers, and where each came from. Pure.

Each value is converted as it is read, so that every wrong one is reported with its place.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec.structs import fields

from engine.config import RouteSettings, Settings
from engine.errors import Problem

SECTIONS: dict[str, Any] = {f.name: f.type for f in fields(Settings) if f.name != "routes"}
"""Section → its struct."""

KEYS: dict[str, Any] = {f"{section}.{f.name}": f.type for section, struct in SECTIONS.items() for f in fields(struct)}
"""Dotted key → the type of its value; routes apart."""

ROUTE_KEYS: dict[str, Any] = {f.name: f.type for f in fields(RouteSettings)}

SECTIONS_AND_ROUTES = frozenset({*SECTIONS, "routes"})

SECRET = {"redis.password", "redis.sentinel_password"}
_UNSHOWN = SECRET | {"redis.url", "redis.username", "redis.sentinel_username"}
"""Settings that may hold a secret as given."""
_SHOWN_CHARS_MAX = 40


class Draft:
    """The values so far, by dotted key, and what was wrong with those that could not be taken."""

    def __init__(self, sections: Collection[str] = SECTIONS_AND_ROUTES) -> None:
        self._sections = sections
        """The settings that matter here; others are ignored."""
        self.values: dict[str, Any] = {}
        self.routes: list[tuple[str, RouteSettings]] = []
        """Place and settings of each route that could be read."""
        self.route_count = 0
        """Routes that were configured, readable or not."""
        self.is_whole = True
        """Whether all layers could be read; what is missing from an incomplete draft is not a mistake."""
        self.problems: list[Problem] = []
        self._places: dict[str, str] = {}
        self._over: dict[str, str] = {}
        """For a key that was set twice: where it was set before."""

    def say(self, place: str, message: str, hint: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(place, message, hint))

    def set(self, key: str, raw: object, place: str, *, is_text: bool = False) -> None:
        """Lay a value over those of lower layers; ``is_text`` if the layer can only hold text."""
        if key.split(".")[0] not in self._sections:
            return
        try:
            self.values[key] = convert(raw, KEYS[key], is_text=is_text)
        except ValueError as error:
            shown = "" if key in _UNSHOWN else f", not {show(raw)}"
            self.say(place, f"must be {error}{shown}")
        else:
            if self._places.get(key, place) != place:
                self._over[key] = self._places[key]
            self._places[key] = place

    def get(self, key: str) -> Any:
        """Return the value in force, the default if none was given."""
        if key in self.values:
            return self.values[key]
        section, name = key.split(".")
        return getattr(SECTIONS[section](), name)

    def place(self, *keys: str) -> str:
        """Return where the first of these keys that is set was set."""
        return next((self._places[key] for key in keys if key in self._places), keys[0])

    def origin(self, key: str) -> str:
        """Return where the value in force came from, and what it overrides, for people."""
        place = self.place(key)
        if place == key:
            return "default"
        return f"{place}, over {self._over[key]}" if key in self._over else place

    def is_set(self, key: str) -> bool:
        """Return whether this key was set."""
        return key in self.values

    def forget(self, key: str) -> None:
        """Take back a value that was found wrong, so that its default applies."""
        self.values.pop(key, None)

    def settings(self) -> Settings:
        """Return the tree."""
        sections = {
            section: struct(**{f.name: self.get(f"{section}.{f.name}") for f in fields(struct)})
            for section, struct in SECTIONS.items()
        }
        return Settings(**sections, routes=tuple(route for _, route in self.routes))

    def read_document(self, document: Mapping[str, Any], file: str) -> None:
        """Take in a parsed TOML file."""
        for section, content in document.items():
            if section in SECTIONS_AND_ROUTES and section not in self._sections:
                continue
            if section == "routes":
                self._read_routes(content, file)
            elif section not in SECTIONS:
                self.say(f"{file}: {section}", "unknown section", _hint_for_section(section))
            elif not isinstance(content, dict):
                self.say(f"{file}: {section}", f"must be a section, not {show(content)}", f"write [{section}]")
            else:
                self._read_section(section, content, file)

    def _read_section(self, section: str, content: Mapping[str, Any], file: str) -> None:
        for name, raw in content.items():
            key, place = f"{section}.{name}", f"{file}: {section}.{name}"
            if key in KEYS:
                self.set(key, raw, place)
            else:
                self.say(place, "unknown setting", hint_for_key(key))

    def _read_routes(self, content: object, file: str) -> None:
        if not isinstance(content, list) or not all(isinstance(table, dict) for table in content):
            self.route_count = 1
            self.say(f"{file}: routes", "must be tables", "begin each route with [[routes]]")
            return
        self.route_count = len(content)
        for index, table in enumerate(content):
            self._read_route(table, route_place(file, index, table.get("name")))

    def _read_route(self, table: Mapping[str, Any], place: str) -> None:
        values: dict[str, Any] = {}
        for name, raw in table.items():
            if name not in ROUTE_KEYS:
                self.say(f"{place}: {name}", "unknown option", closest(name, ROUTE_KEYS))
                continue
            # One word needs no brackets: events = "changes".
            listed = [raw] if name == "events" and isinstance(raw, str) else raw
            try:
                values[name] = convert(listed, ROUTE_KEYS[name])
            except ValueError as error:
                self.say(f"{place}: {name}", f"must be {error}, not {show(raw)}")
        lacking = [name for name in ("name", "function") if name not in table]
        for name in lacking:
            self.say(place, f"has no {name}", _ROUTE_NEEDS[name])
        if "name" in values and "function" in values:
            self.routes.append((place, RouteSettings(**values)))


_ROUTE_NEEDS = {
    "name": 'add name = "carts", or whatever tells it apart',
    "function": 'add function = "dynamodb": the Lambda function that gets the records',
}


def route_place(file: str, index: int, name: object) -> str:
    """Return how to speak of a route in a file; ``index`` counts from 0, as in ``routes[0]``."""
    return f'{file}: routes[{index}] "{name}"' if name and isinstance(name, str) else f"{file}: routes[{index}]"


def convert(raw: object, kind: Any, *, is_text: bool = False) -> Any:
    """Return a value of this type; raise ValueError with what it must be, in words."""
    try:
        if is_text and isinstance(raw, str):
            return _from_text(raw, kind)
        if kind is not float and isinstance(raw, float):
            raise ValueError
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, ValueError):
        raise ValueError(describe(kind)) from None


def _from_text(raw: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return msgspec.convert([part.strip() for part in raw.split(",") if part.strip()], kind, strict=False)
    if kind is bool:
        raw = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(raw.lower(), raw)
    if kind is int:
        return int(raw)
    if get_origin(kind) is Union:
        # An allowed word, or whatever the first of the types makes of it.
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(raw.strip(), kind)
        return _from_text(raw, get_args(kind)[0])
    return msgspec.convert(raw.strip() if kind is float else raw, kind, strict=False)


def describe(kind: Any) -> str:
    """Return what a value of this type is, in words."""
    if get_origin(kind) is Literal:
        words = ", ".join(map(repr, get_args(kind)))
        return f"one of {words}" if "," in words else words
    if get_origin(kind) is tuple:
        return "a list of whole numbers" if int in get_args(kind) else "a list of strings"
    if get_origin(kind) is Union:
        return " or ".join(describe(one) for one in get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]


def show(raw: object) -> str:
    """Return a value as a message shows it, shortened."""
    text = repr(raw)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"


def closest(name: str, among: Iterable[str]) -> str:
    """Return a hint that names the most similar of these, or nothing."""
    found = difflib.get_close_matches(name, list(among), n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else ""


def hint_for_key(key: str) -> str:
    """Return a hint that names the setting that a wrong dotted key may mean."""
    section, name = key.split(".", 1)
    elsewhere = [other for other in KEYS if other.endswith(f".{name}")]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    inside = [other.split(".")[1] for other in KEYS if other.startswith(f"{section}.")]
    return closest(name, inside) or closest(key, KEYS) or f"[{section}] knows {', '.join(inside)}"


def _hint_for_section(name: str) -> str:
    elsewhere = [key for key in KEYS if key.endswith(f".{name}")]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    if section := closest(name, [*SECTIONS, "routes"]):
        return section
    keys = {key.split(".")[1]: key for key in KEYS}
    similar = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
    if similar:
        return f"did you mean {keys[similar[0]]}?"
    return f"sections are {', '.join(SECTIONS)} and [[routes]]"
