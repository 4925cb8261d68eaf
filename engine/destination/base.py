"""What the audit asks of a destination, and how a route names one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from engine.errors import EngineError
from lambdas.contract import Record

ITEM_MODES = ("body", "attributes", "nested")
EXTRA_ATTRIBUTES = ("type", "event", "version", "db")
ATTRIBUTE_CHARS_MAX = 255

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_OPTIONS = (
    "item_mode", "key_attribute", "extra_attributes", "ttl_attribute", "version_attribute", "numbers", "database_in_key"
)  # fmt: skip
_OWN_ATTRIBUTES = {"ttl_attribute": "expires_at", "version_attribute": "version"}
_FORM = 'as in "dynamodb://TABLE?item_mode=body&key_attribute=id"'


class DestinationError(EngineError):
    """The destination did not do what the audit needs; ``passes`` if the same may succeed later by itself."""

    def __init__(self, message: str, *, hint: str = "", passes: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passes = passes


@dataclass(frozen=True, slots=True)
class Target:
    """Which table, and how its function was told to write to it: ``DYNAMO_ITEM_MODE`` and so on."""

    table: str
    item_mode: str = "body"
    key_attribute: str = "id"
    extra_attributes: tuple[str, ...] = ()
    ttl_attribute: str = "expires_at"
    version_attribute: str = "version"
    numbers: bool = False
    database_in_key: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """What a destination holds for a key; only the destination understands ``content``.

    ``is_absent`` if it only remembers a delete (a tombstone). ``version`` is 0 if the item has none.
    """

    key: bytes
    content: Mapping[str, Any]
    is_absent: bool = False
    version: int = 0


class Destination(Protocol):
    """One destination. Several threads use it at once; whatever asks it raises `DestinationError`."""

    def scan(self, segment: int, segments: int) -> Iterator[list[Item | None]]:
        """Yield one of ``segments`` disjoint parts, page by page: every item, None for one that stands for no Redis
        key.

        Items may be a moment old, and hold no more than their key and whether they are tombstones.
        """

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Item]:
        """Return what exists now for these keys, strongly consistent, including tombstones."""

    def holds(self, item: Item, record: Record) -> bool:
        """Tell whether the item is what the function writes for this record, which has a body."""

    def refusal(self, record: Record) -> str:
        """Return why this record can never be stored, "" if it can."""


def check_destination(value: str) -> tuple[str, str] | None:
    """Return what is wrong with a route's ``destination`` and how to fix it, None if it is valid."""
    try:
        if value:
            parse_destination(value)
    except ValueError as error:
        return str(error), _FORM
    return None


def parse_destination(value: str) -> Target:
    """Return what a route's ``destination`` names; raise ValueError if it is invalid."""
    parts = urlsplit(value)
    if parts.scheme != "dynamodb":
        raise ValueError(f"{value[:200]!r} is not a destination: dynamodb:// is the only kind")
    if not _TABLE.fullmatch(parts.netloc) or parts.path.strip("/") or parts.fragment:
        raise ValueError(f"{value[:200]!r} names no DynamoDB table: 3 to 255 of a-z, A-Z, 0-9, _ - .")
    options = parse_qsl(parts.query, keep_blank_values=True)
    names = [name for name, _ in options]
    for name in names:
        if name not in _OPTIONS:
            raise ValueError(f"{name[:100]!r} is not an option of a destination: {', '.join(_OPTIONS)}")
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice")
    return _target(parts.netloc, dict(options))


def _target(table: str, options: Mapping[str, str]) -> Target:
    mode, key = options.get("item_mode", "body"), options.get("key_attribute", "id")
    extra = tuple(filter(None, options.get("extra_attributes", "").split(",")))
    if mode not in ITEM_MODES:
        raise ValueError(f"item_mode is {mode[:100]!r}: allowed are {', '.join(ITEM_MODES)}")
    for name in extra:
        if name not in EXTRA_ATTRIBUTES:
            raise ValueError(f"extra_attributes holds {name[:100]!r}: allowed are {', '.join(EXTRA_ATTRIBUTES)}")
    if not 0 < len(key) <= ATTRIBUTE_CHARS_MAX or key in ("body", "obj_name", *extra):
        raise ValueError(f"key_attribute is {key[:100]!r}, which is empty, too long, or the name of another attribute")
    own = {name: options.get(name, default) for name, default in _OWN_ATTRIBUTES.items()}
    for option, name in own.items():
        if not 0 < len(name) <= ATTRIBUTE_CHARS_MAX or name in ("body", "obj_name", key):
            raise ValueError(f"{option} is {name[:100]!r}, which is empty, too long, or the name of another attribute")
    switches = {name: options.get(name, "off") for name in ("numbers", "database_in_key")}
    for name, word in switches.items():
        if word not in ("off", "on"):
            raise ValueError(f"{name} is {word[:100]!r}: allowed are off, on")
    is_on = {name: word == "on" for name, word in switches.items()}
    return Target(table, mode, key, extra, **own, numbers=is_on["numbers"], database_in_key=is_on["database_in_key"])
