"""A field's text → an SQL literal of its type, or the reason why it can't be one.  (pure)

Nothing is rounded or cut: what a column can't hold exactly is refused here, or by the server in its strict mode. Only
``float`` is what it is everywhere.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

Raw = str | bytes
"""A field's value: text, or bytes that are not UTF-8."""

NULL = "NULL"
NUMBER_CHARS_MAX = 100
"""MySQL's numbers have 65 digits at most."""
YEAR_MIN, YEAR_MAX = 1901, 2155
TIME_HOURS_MAX = 838
UNIX_CHARS_MAX = 25
"""Decimals are exact up to 28 digits."""

_INT = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_FINER_THAN_MICROSECONDS = re.compile(r"[.,][0-9]{7}")
_TIME = re.compile(r"-?(?P<hours>[0-9]{1,3}):[0-5][0-9](:[0-5][0-9](\.(?P<fraction>[0-9]{1,6}))?)?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BOOLS = {"1": "1", "true": "1", "yes": "1", "on": "1", "0": "0", "false": "0", "no": "0", "off": "0"}
_NIL_UUID = "'00000000-0000-0000-0000-000000000000'"
_EPOCH = datetime.datetime(1970, 1, 1)
_UNITS_PER_SECOND = {"unix_s": 1, "unix_ms": 1_000}
_ESCAPED = re.compile(r"['\\\0\n\r\x1a]")
_ESCAPES = str.maketrans({"'": "\\'", "\\": "\\\\", "\0": "\\0", "\n": "\\n", "\r": "\\r", "\x1a": "\\Z"})

BIT_OF_ONE = "bit(1)"
"""A column's data type, as against wider bits."""
ISO = "iso"
DATETIME_FORMATS = (ISO, *_UNITS_PER_SECOND)


class ValueRefused(ValueError):
    """This text can't be a value of that column; the message says why."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the server describes it; 0 for what it has no bound for.

    ``digits`` are those after the decimal point: of a number, or of the seconds; ``collation`` is "" for what is no
    text; ``members`` are those of an ENUM or a SET. ``is_ours`` where the function has added it for a field that the
    mapping does not name; ``is_generated`` where the server makes its values.
    """

    name: str
    data_type: str
    is_nullable: bool = True
    chars_max: int = 0
    bytes_max: int = 0
    digits: int = 0
    collation: str = ""
    is_ours: bool = False
    members: tuple[str, ...] = ()
    is_generated: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of the mapping: what columns hold it, how it is written, and what stands for no value at all."""

    data_types: frozenset[str]
    sql_type: str
    blank: str
    literal: Callable[[Raw, Column, str], str]


def quoted(text: str) -> str:
    """Return a text as an SQL literal; raise `ValueRefused` where it can't be UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueRefused("it holds half of a surrogate pair, which is not text") from None
    return f"'{text.translate(_ESCAPES)}'" if _ESCAPED.search(text) else f"'{text}'"


def hexadecimal(raw: Raw) -> str:
    """Return bytes (of a text: in UTF-8) as an SQL literal."""
    return f"X'{_bytes(raw).hex()}'"


def _bytes(raw: Raw) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        return raw.encode()
    except UnicodeEncodeError:
        raise ValueRefused("it holds half of a surrogate pair, which is not text") from None


def _text(raw: Raw, column: Column, _format: str) -> str:
    text = _as_text(raw)
    if column.data_type in {"enum", "set"}:
        # The server would take a number for a member's place, and another case for the member's own.
        parts = text.split(",") if column.data_type == "set" and text else [text] * (column.data_type == "enum")
        if not set(parts) <= set(column.members):
            raise ValueRefused(f"{_shown(text)} is not one of the column's {column.data_type.upper()} members")
    if column.data_type == "uuid" and not _UUID.fullmatch(text):
        raise ValueRefused(f"{_shown(text)} is not a UUID")
    # Blanks beyond the end are the one thing that the strict mode still cuts off.
    if column.data_type == "char" and text.endswith(" "):
        raise ValueRefused("it ends in blanks, which a column of type char drops")
    _check_length(len(text), column.chars_max, "characters")
    _check_length(len(text.encode(errors="surrogatepass")) if column.bytes_max else 0, column.bytes_max, "bytes")
    return quoted(text)


def _binary(raw: Raw, column: Column, _format: str) -> str:
    size = len(_bytes(raw))
    _check_length(size, column.bytes_max, "bytes")
    if column.data_type == "binary" and size < column.bytes_max:
        raise ValueRefused(f"it has {size} bytes, and a column of type binary fills it up to {column.bytes_max}")
    return hexadecimal(raw)


def _int(raw: Raw, column: Column, _format: str) -> str:
    text = _as_text(raw)
    if not _INT.fullmatch(text) or len(text) > NUMBER_CHARS_MAX:
        raise ValueRefused(f"{_shown(text)} is not a whole number")
    # The server would take 5 for 2005.
    if column.data_type == "year" and int(text) != 0 and not YEAR_MIN <= int(text) <= YEAR_MAX:
        raise ValueRefused(f"{text} is not a year that the column accepts: 0, or {YEAR_MIN} to {YEAR_MAX}")
    return str(int(text))


def _decimal(raw: Raw, column: Column, _format: str) -> str:
    text = format(_number(raw), "f")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(text) > NUMBER_CHARS_MAX:
        raise ValueRefused(f"{_shown(_as_text(raw))} has more digits than any column")
    if len(fraction) > column.digits:
        raise ValueRefused(f"{text} has {len(fraction)} digits after the point, and the column {column.digits}")
    return f"{whole}.{fraction}" if fraction else whole


def _float(raw: Raw, _column: Column, _format: str) -> str:
    number = float(_number(raw))
    if number in (float("inf"), float("-inf")):
        raise ValueRefused(f"{_shown(_as_text(raw))} is larger than any double")
    text = repr(number)
    return text if "e" in text else f"{text}e0"


def _bool(raw: Raw, _column: Column, _format: str) -> str:
    text = _as_text(raw)
    if text.lower() not in _BOOLS:
        raise ValueRefused(f"{_shown(text)} is none of {', '.join(_BOOLS)}")
    return _BOOLS[text.lower()]


def _datetime(raw: Raw, column: Column, style: str) -> str:
    text = _as_text(raw)
    try:
        moment = _from_iso(text) if style == ISO else _from_unix(text, _UNITS_PER_SECOND[style])
    except (ValueError, OverflowError):
        raise ValueRefused(f"{_shown(text)} is not a time as {style} writes it") from None
    if column.data_type == "date":
        if moment.time() != datetime.time():
            raise ValueRefused(f"{_shown(text)} has a time of day, and the column is a date")
        return f"'{moment.date().isoformat()}'"
    fraction = f"{moment.microsecond:06d}".rstrip("0")
    if len(fraction) > column.digits:
        raise ValueRefused(f"{_shown(text)} has parts of a second that the column's {column.digits} digits can't hold")
    return f"'{moment.isoformat(' ', 'microseconds')}'"


def _time(raw: Raw, column: Column, _format: str) -> str:
    text = _as_text(raw)
    if not (match := _TIME.fullmatch(text)) or int(match["hours"]) > TIME_HOURS_MAX:
        raise ValueRefused(f"{_shown(text)} is not a time as in -12:34:56.789, of {TIME_HOURS_MAX} hours at most")
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > column.digits:
        raise ValueRefused(f"{_shown(text)} has parts of a second that the column's {column.digits} digits can't hold")
    return quoted(text)


def _json(raw: Raw, _column: Column, _format: str) -> str:
    text = _as_text(raw)
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueRefused(f"{_shown(text)} is not JSON") from None
    return quoted(text)


def _from_iso(text: str) -> datetime.datetime:
    """Return the moment in UTC, without its zone; a time that names none is in UTC."""
    if _FINER_THAN_MICROSECONDS.search(text):
        raise ValueError(text)
    moment = datetime.datetime.fromisoformat(text)
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _from_unix(text: str, units_per_second: int) -> datetime.datetime:
    microseconds = _number(text) * (1_000_000 // units_per_second)
    if len(text) > UNIX_CHARS_MAX or microseconds != int(microseconds):
        raise ValueError(text)
    return _EPOCH + datetime.timedelta(microseconds=int(microseconds))


def _number(raw: Raw) -> Decimal:
    text = _as_text(raw)
    if not _DECIMAL.fullmatch(text) or len(text) > NUMBER_CHARS_MAX:
        raise ValueRefused(f"{_shown(text)} is not a number")
    return Decimal(text)


def _as_text(raw: Raw) -> str:
    if isinstance(raw, bytes):
        raise ValueRefused("it is not UTF-8, and only a binary column holds that")
    return raw


def _check_length(length: int, length_max: int, what: str) -> None:
    if length_max and length > length_max:
        raise ValueRefused(f"it has {length} {what}, and the column takes {length_max}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


INTS = ("tinyint", "smallint", "mediumint", "int", "bigint")
_TEXTS = ("tinytext", "text", "mediumtext", "longtext")
_BLOBS = ("tinyblob", "blob", "mediumblob", "longblob")

KINDS: dict[str, Kind] = {
    "text": Kind(frozenset({"char", "varchar", *_TEXTS, "enum", "set", "uuid"}), "TEXT", "''", _text),
    "int": Kind(frozenset({*INTS, "year"}), "BIGINT", "0", _int),
    "decimal": Kind(frozenset({"decimal"}), "DECIMAL(38,10)", "0", _decimal),
    "float": Kind(frozenset({"float", "double"}), "DOUBLE", "0", _float),
    "bool": Kind(frozenset({*INTS, BIT_OF_ONE}), "TINYINT(1)", "0", _bool),
    "datetime": Kind(frozenset({"datetime", "timestamp", "date"}), "DATETIME(6)", "'1970-01-02'", _datetime),
    "time": Kind(frozenset({"time"}), "TIME(6)", "'00:00:00'", _time),
    # To MariaDB, JSON is longtext with a check.
    "json": Kind(frozenset({"json", "mediumtext", "longtext"}), "JSON", "'null'", _json),
    "binary": Kind(frozenset({"binary", "varbinary", *_BLOBS}), "LONGBLOB", "''", _binary),
}


def blank(kind: str, column: Column) -> str:
    """Return the literal that stands for no value at all in a column that may not be NULL."""
    if column.data_type == "enum":
        return quoted(column.members[0])
    return _NIL_UUID if column.data_type == "uuid" else KINDS[kind].blank


def json_text(value: Any) -> str:
    """Return a value as canonical JSON text: equal values give equal texts."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
