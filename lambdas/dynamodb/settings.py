"""The function's environment variables, checked once a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lambdas.contract import SetupError

ITEM_MODES = ("body", "attributes")
EXTRA_ATTRIBUTES = ("type", "event", "version", "db")


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


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings; raise `SetupError`, which names the variable and the remedy."""
    table = environ.get("DYNAMO_TABLE", "")
    if not table:
        raise SetupError("DYNAMO_TABLE is not set: name the table that the function writes to")
    mode = environ.get("DYNAMO_ITEM_MODE", "body")
    if mode not in ITEM_MODES:
        raise SetupError(f"DYNAMO_ITEM_MODE is {mode!r}: allowed are {', '.join(ITEM_MODES)}")
    extra = tuple(filter(None, (name.strip() for name in environ.get("DYNAMO_EXTRA_ATTRIBUTES", "").split(","))))
    unknown = [name for name in extra if name not in EXTRA_ATTRIBUTES]
    if unknown:
        raise SetupError(f"DYNAMO_EXTRA_ATTRIBUTES holds {unknown[0]!r}: allowed are {', '.join(EXTRA_ATTRIBUTES)}")
    key_attribute = environ.get("DYNAMO_KEY_ATTRIBUTE", "id")
    if not key_attribute or key_attribute in ("body", "obj_name", *extra):
        raise SetupError(f"DYNAMO_KEY_ATTRIBUTE is {key_attribute!r}, which another attribute has")
    settings = Settings(
        table,
        mode,
        key_attribute,
        extra,
        _number(environ, "DYNAMO_ATTEMPTS_MAX", Settings.attempts_max, 1, 100),
        _number(environ, "DYNAMO_BACKOFF_MS_MIN", Settings.backoff_ms_min, 1, 60_000),
        _number(environ, "DYNAMO_BACKOFF_MS_MAX", Settings.backoff_ms_max, 1, 60_000),
        _number(environ, "DYNAMO_RESERVE_MS", Settings.reserve_ms, 0, 60_000),
    )
    if settings.backoff_ms_min > settings.backoff_ms_max:
        raise SetupError("DYNAMO_BACKOFF_MS_MIN is larger than DYNAMO_BACKOFF_MS_MAX")
    return settings


def _number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, str(default))
    if not text.isdigit() or not low <= int(text) <= high:
        raise SetupError(f"{name} is {text!r}: a whole number from {low} to {high} is allowed")
    return int(text)
