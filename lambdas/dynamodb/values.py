"""Values as DynamoDB types them: strings, binary, numbers where nothing is lost, maps and lists.  (pure)"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lambdas.contract import BASE64
from lambdas.dynamodb.settings import FIELD_PREFIXES

AttributeValue = dict[str, Any]
"""As in ``{"S": "tea"}``; binary is base64 text, as on the wire."""

FIELD_PREFIX, BINARY_PREFIX = FIELD_PREFIXES
NAME_BYTES_MAX = 65_535
DEPTH_MAX = 32
"""Levels of maps and lists that DynamoDB takes."""

DIGITS_MAX = 38
# One way to write each number: no plus, no leading zeros, none at the end of a fraction, no exponent, no minus zero.
_NUMBER = re.compile(r"(?!-0$)-?(?:0|[1-9]\d*)(?:\.\d*[1-9])?", re.ASCII)
_ZEROS_MAX = 5
"""After the point: smaller numbers come back with an exponent."""


class ValueRefused(ValueError):
    """DynamoDB has no place for this value; the text says why."""


class Digits(str):
    """A number of a JSON text, as it stands there."""

    __slots__ = ()


def number_of(text: str) -> AttributeValue | None:
    """Return the Number that gives back exactly this text, None if none does."""
    if not text or len(text) > DIGITS_MAX + _ZEROS_MAX + 3 or not _NUMBER.fullmatch(text):
        return None
    whole, _, fraction = text.lstrip("-").partition(".")
    if whole == "0" and fraction.startswith("0" * (_ZEROS_MAX + 1)):
        return None
    return {"N": text} if len((whole + fraction).lstrip("0")) <= DIGITS_MAX else None


def attributes_of(
    fields: Mapping[str, Any], encoding: str, taken: Iterable[str], numbers: bool
) -> dict[str, AttributeValue]:
    """Return one attribute a field of a hash. With ``numbers``, what reads as a number is one.

    A field whose name is taken, empty, or might be that of another one gets ``field:`` before it, so none is lost.
    Raises `ValueRefused`.
    """
    attributes: dict[str, AttributeValue] = {}
    for field, text in fields.items():
        if not isinstance(text, str):
            raise ValueRefused("a field of the hash is not a string")
        name, value = (_name(field), _text(text)) if encoding == BASE64 else (_told_apart(field), {"S": text})
        if numbers and "S" in value:
            value = number_of(value["S"]) or value
        if name in taken:
            name = FIELD_PREFIX + name
        if len(name) > NAME_BYTES_MAX // 4 and len(name.encode()) > NAME_BYTES_MAX:
            raise ValueRefused(f"a field's name is longer than DynamoDB's {NAME_BYTES_MAX} bytes")
        attributes[name] = value
    return attributes


def document_of(value: Any, encoding: str, *, numbers: bool = False, depth: int = 0) -> AttributeValue:
    """Return a parsed JSON value as maps and lists; `Digits` are numbers where nothing is lost, else strings.

    ``numbers`` is for the members of a map, as in `attributes_of`. Raises `ValueRefused`.
    """
    if isinstance(value, Digits):
        return number_of(value) or {"S": str(value)}
    if isinstance(value, str):
        return _text(value) if encoding == BASE64 else {"S": value}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if depth == DEPTH_MAX:
        raise ValueRefused(f"the body is nested deeper than DynamoDB's {DEPTH_MAX} levels")
    if isinstance(value, list):
        return {"L": [document_of(member, encoding, depth=depth + 1) for member in value]}
    members: dict[str, AttributeValue] = {}
    for field, member in value.items():
        name = _name(field) if encoding == BASE64 else _told_apart(field)
        typed = document_of(member, encoding, depth=depth + 1)
        if numbers and "S" in typed:
            typed = number_of(typed["S"]) or typed
        members[name] = typed
    return {"M": members}


def pairs_of(value: Any, encoding: str, plain: int) -> AttributeValue:
    """Return a list of pairs of which one place (0 or 1) is never base64: ids of streams, scores of sorted sets."""
    if not isinstance(value, list) or not all(isinstance(pair, list) for pair in value):
        raise ValueRefused("the body is not a list of pairs")
    return {
        "L": [
            {"L": [document_of(part, "" if place == plain else encoding, depth=2) for place, part in enumerate(pair)]}
            for pair in value
        ]
    }


def size_of(value: AttributeValue) -> int:
    """Return a value's size in bytes as DynamoDB counts it; raise UnicodeEncodeError if it is no Unicode."""
    kind: str
    content: Any
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content) if content.isascii() else len(content.encode())
    if kind == "N":
        # A byte for two significant digits, and one: zeros at both ends, the sign and the point are none.
        digits = content.strip("-0.")
        return (len(digits) - ("." in digits) + 1) // 2 + 1
    if kind == "B":
        return len(content) // 4 * 3 - str(content).count("=", -2)
    if kind == "L":
        return 3 + sum([1 + size_of(member) for member in content])
    if kind == "M":
        return 3 + sum([1 + len(name.encode()) + size_of(member) for name, member in content.items()])
    return 1


def _name(field: str) -> str:
    """Return the name of a field in a body in base64: text where it is UTF-8 after all."""
    try:
        return _told_apart(base64.b64decode(field, validate=True).decode())
    except UnicodeDecodeError:
        return BINARY_PREFIX + field


def _told_apart(name: str) -> str:
    """Return a field's name that no other field has, whatever it is: another one's bytes, say, or a prefixed name."""
    return FIELD_PREFIX + name if not name or name.startswith(FIELD_PREFIXES) else name


def _text(text: str) -> AttributeValue:
    try:
        return {"S": base64.b64decode(text, validate=True).decode()}
    except UnicodeDecodeError:
        return {"B": text}
