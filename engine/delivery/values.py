"""A key's value as one canonical JSON text: the same value, the same text, for each type.  (pure)

========== =====================================================================================
hash       object of strings, fields sorted
string     string
list       array of strings
set        array of strings, sorted
zset       array of ``[member, score]``, in the server's order (score, then member)
stream     array of ``[entry id, [[field, value], …]]``
json       the document, as the module gives it
========== =====================================================================================

A score is a JSON number, or one of the strings ``inf``, ``-inf``, ``nan``. Redis strings are bytes: where any string of a
value is not UTF-8, *all* its strings are base64, and the record's ``body_encoding`` says so.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import orjson

BASE64 = "base64"
_SORT = orjson.OPT_SORT_KEYS


def key_text(key: bytes) -> tuple[str, str]:
    """Return a key as text and its encoding: "" for UTF-8, else ``base64``."""
    try:
        return key.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(key).decode(), BASE64


def body_of(kind: str, value: Any) -> tuple[str, str]:
    """Return the canonical JSON text of a value as RESP3 gives it, and its encoding.

    Strings may hold surrogates that stand for bytes which are not UTF-8 (``surrogateescape``).
    """
    try:
        if kind == "hash":
            return orjson.dumps(value, option=_SORT).decode(), ""
        return orjson.dumps(_shape(kind, value, _same)).decode(), ""
    except TypeError:
        return orjson.dumps(_shape(kind, value, _base64), option=_SORT).decode(), BASE64


def _same(text: str) -> str:
    return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _shape(kind: str, value: Any, text: Callable[[str], str]) -> Any:
    if kind == "string":
        return text(value)
    if kind == "hash":
        return {text(name): text(field) for name, field in value.items()}
    if kind == "list":
        return [text(member) for member in value]
    if kind == "set":
        return sorted(text(member) for member in value)
    if kind == "zset":
        return [[text(member), _score(score)] for member, score in value]
    assert kind == "stream", kind
    return [[entry_id, _pairs(fields, text)] for entry_id, fields in value]


def _score(score: float | str) -> float | str:
    number = float(score)
    if math.isfinite(number):
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"


def _pairs(fields: Any, text: Callable[[str], str]) -> list[list[str]]:
    flat = list(fields or ())
    return [[text(flat[index]), text(flat[index + 1])] for index in range(0, len(flat), 2)]
