"""The function's environment variables, checked once a container."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from lambdas.contract import SetupError
from lambdas.environ import check_order, number, one_of, required

ITEM_MODES = ("body", "attributes", "nested")
WRITE_MODES = ("batch", "versioned")
EXTRA_ATTRIBUTES = ("type", "event", "version", "db")
ATTRIBUTE_CHARS_MAX = 255

DELETED_AT = "deleted_at_ms"
"""The attribute of a tombstone: what is left of a deleted key where writes are versioned."""

BODY_ATTRIBUTES = ("body", "obj_name", "body_encoding")

FIELD_PREFIXES = ("field:", "base64:")
"""Beginnings of the names that fields are stored under where their own will not do."""


@dataclass(frozen=True)
class Settings:
    """What the function was told; the README of this folder documents each."""

    table: str
    item_mode: str = "body"
    key_attribute: str = "id"
    extra_attributes: tuple[str, ...] = ()
    attempts_max: int = 8
    backoff_ms_min: int = 25
    backoff_ms_max: int = 2_000
    reserve_ms: int = 1_000
    connect_timeout_ms: int = 1_000
    read_timeout_ms: int = 2_000
    late_effect_ms: int = 4_000
    write_mode: str = "batch"
    version_attribute: str = "version"
    ttl_attribute: str = "expires_at"
    numbers: bool = False
    database_in_key: bool = False
    tombstone_ttl_s: int = 86_400
    concurrency: int = 4

    @property
    def is_versioned(self) -> bool:
        """Tell whether each write is conditional on the record's version."""
        return self.write_mode == "versioned"

    @functools.cached_property
    def taken(self) -> frozenset[str]:
        """Return the names that no field of a hash may have as an attribute."""
        names = {self.key_attribute, self.ttl_attribute, *self.extra_attributes}
        if self.is_versioned:
            names.add(self.version_attribute)
        if self.numbers:
            # As numbers, they would make a tombstone, or a version.
            names |= {DELETED_AT, self.version_attribute}
        return frozenset(names)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings; raise `SetupError`, which names the variable and the remedy."""
    table = required(environ, "DYNAMO_TABLE", "the table that the function writes to")
    extra = tuple(filter(None, (name.strip() for name in environ.get("DYNAMO_EXTRA_ATTRIBUTES", "").split(","))))
    unknown = [name for name in extra if name not in EXTRA_ATTRIBUTES]
    if unknown:
        raise SetupError(f"DYNAMO_EXTRA_ATTRIBUTES holds {unknown[0]!r}: allowed are {', '.join(EXTRA_ATTRIBUTES)}")
    settings = Settings(
        table,
        one_of(environ, "DYNAMO_ITEM_MODE", ITEM_MODES),
        environ.get("DYNAMO_KEY_ATTRIBUTE", Settings.key_attribute),
        extra,
        number(environ, "DYNAMO_ATTEMPTS_MAX", Settings.attempts_max, 1, 100),
        number(environ, "DYNAMO_BACKOFF_MS_MIN", Settings.backoff_ms_min, 1, 60_000),
        number(environ, "DYNAMO_BACKOFF_MS_MAX", Settings.backoff_ms_max, 1, 60_000),
        number(environ, "DYNAMO_RESERVE_MS", Settings.reserve_ms, 0, 60_000),
        number(environ, "DYNAMO_CONNECT_TIMEOUT_MS", Settings.connect_timeout_ms, 1, 900_000),
        number(environ, "DYNAMO_READ_TIMEOUT_MS", Settings.read_timeout_ms, 1, 900_000),
        number(environ, "DYNAMO_LATE_EFFECT_MS", Settings.late_effect_ms, 0, 900_000),
        one_of(environ, "DYNAMO_WRITE_MODE", WRITE_MODES),
        environ.get("DYNAMO_VERSION_ATTRIBUTE", Settings.version_attribute),
        environ.get("DYNAMO_TTL_ATTRIBUTE", Settings.ttl_attribute),
        one_of(environ, "DYNAMO_NUMBERS", ("off", "on")) == "on",
        one_of(environ, "DYNAMO_DATABASE_IN_KEY", ("off", "on")) == "on",
        number(environ, "DYNAMO_TOMBSTONE_TTL_S", Settings.tombstone_ttl_s, 60, 315_360_000),
        number(environ, "DYNAMO_CONCURRENCY", Settings.concurrency, 1, 256),
    )
    check_order("DYNAMO_BACKOFF_MS_MIN", settings.backoff_ms_min, "DYNAMO_BACKOFF_MS_MAX", settings.backoff_ms_max)
    _check_names(settings)
    return settings


def _check_names(settings: Settings) -> None:
    """See that no two things of an item have one name."""
    taken = {*BODY_ATTRIBUTES, *settings.extra_attributes, DELETED_AT}
    names = {"DYNAMO_KEY_ATTRIBUTE": settings.key_attribute}
    if settings.is_versioned:
        names["DYNAMO_VERSION_ATTRIBUTE"] = settings.version_attribute
    names["DYNAMO_TTL_ATTRIBUTE"] = settings.ttl_attribute
    for variable, name in names.items():
        if name.startswith(FIELD_PREFIXES):
            raise SetupError(
                f"{variable} is {name!r}: it may not begin as names of fields do ({', '.join(FIELD_PREFIXES)})"
            )
        # The extra attribute "version" is the same number.
        is_same = variable == "DYNAMO_VERSION_ATTRIBUTE" and name == "version"
        if not 0 < len(name) <= ATTRIBUTE_CHARS_MAX or (name in taken and not is_same):
            raise SetupError(f"{variable} is {name!r}: empty, too long, or the name of another attribute")
        taken.add(name)
