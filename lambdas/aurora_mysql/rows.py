"""Records → rows of a table.  (pure)"""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from lambdas.aurora_mysql import statements
from lambdas.aurora_mysql.layout import Layout
from lambdas.aurora_mysql.mapping import TableMapping, mapping_of
from lambdas.aurora_mysql.statements import Row
from lambdas.aurora_mysql.values import KINDS, NULL, Column, Raw, ValueRefused, hexadecimal, json_text, quoted
from lambdas.contract import BASE64, Record

VERSION_MAX = (1 << 63) - 1
_INT_KEY = re.compile(r"0|-?[1-9][0-9]{0,19}")
_ADDED_COLUMN = Column("", "text")


class RecordRefused(ValueError):
    """This record can't become a row; the text says why."""


class Change(NamedTuple):
    """A record that a mapping takes, read: ``identity`` and ``key`` (an SQL literal) are its row's.

    ``fields`` is the hash, None if the key is gone or of another type.
    """

    record: Record
    mapping: TableMapping
    identity: bytes | int
    key: str
    fields: Mapping[str, Raw] | None


def change_of(record: Record, mappings: tuple[TableMapping, ...]) -> Change:
    """Read a record; raise `RecordRefused` where no mapping takes it, or it is not what its mapping asks for."""
    text = _decoded(record.id) if record.id_encoding == BASE64 else record.id
    mapping = mapping_of(text, mappings)
    if mapping is None:
        raise RecordRefused("no mapping of AURORA_MAPPING takes its key")
    if not 1 <= record.version <= VERSION_MAX:
        raise RecordRefused("it has no version, without which an older value could replace a newer one")
    if not text.startswith(mapping.key_prefix):
        raise RecordRefused(f"its key does not begin with {mapping.key_prefix!r}, the mapping's prefix")
    identity, key = _key(text.removeprefix(mapping.key_prefix), mapping.key_type)
    if record.body is None:
        return Change(record, mapping, identity, key, None)
    if record.type == "hash":
        return Change(record, mapping, identity, key, _fields(record))
    if not mapping.body_column:
        raise RecordRefused(f"it is of type {record.type}, and without a body_column its mapping takes only hashes")
    if record.body_encoding == BASE64:
        raise RecordRefused("it has strings that are not UTF-8, which the JSON of body_column can't hold")
    return Change(record, mapping, identity, key, None)


def unknown_fields(change: Change, layout: Layout) -> list[str]:
    """Return the fields of a change that neither the mapping names nor a column was added for."""
    return [field for field in change.fields or () if field not in layout.named]


def row_of(change: Change, layout: Layout, now_ms: int) -> Row:
    """Return the row; raise `RecordRefused` where the table can't hold it. ``now_ms`` is Unix time."""
    mapping = layout.mapping
    _check_key(change, layout)
    if change.record.body is None and not mapping.leaves_tombstones:
        text = statements.condition(mapping, change.key, change.record.version)
        return Row(change.identity, text, len(text.encode()))
    values = [change.key]
    if change.fields is None:
        values += layout.empty
        values += [NULL] * len(layout.added)
        values += [NULL] * bool(mapping.extra_column)
    else:
        values += _field_literals(change.fields, layout)
        values += [_literal(name, change.fields, column) for name, column in layout.added.items()]
        values += _leftovers(change, layout)
    if mapping.body_column:
        is_other = change.record.body is not None and change.fields is None
        values.append(_body(change.record.body) if is_other else NULL)
    if mapping.leaves_tombstones:
        values.append(_moment(now_ms, layout.deleted_at_digits) if change.record.body is None else NULL)
    values.append(str(change.record.version))
    text = f"({','.join(values)})"
    return Row(change.identity, text, len(text) if text.isascii() else len(text.encode()))


def _key(text: str, key_type: str) -> tuple[bytes | int, str]:
    """Return a row's identity and its key as a literal. Bytes that are not UTF-8 are surrogates in the text."""
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise RecordRefused("its key is not text: it holds half of a surrogate pair") from None
    if key_type == "binary":
        return raw, hexadecimal(raw)
    if key_type == "int":
        # "007" would meet "7", and be another key.
        if not _INT_KEY.fullmatch(text):
            raise RecordRefused(f"its key {text[:40]!r} is not a whole number as Redis writes it")
        return int(text), text
    try:
        return raw, quoted(text)
    except ValueRefused:
        raise RecordRefused("its key is not UTF-8: only a mapping with a key of type binary takes that") from None


def _check_key(change: Change, layout: Layout) -> None:
    if isinstance(change.identity, int):
        return
    column = layout.key
    length, length_max = len(change.identity), column.bytes_max
    if column.chars_max:
        length, length_max = len(change.identity.decode()), column.chars_max
    if length_max and length > length_max:
        raise RecordRefused(f"its key is longer than the {length_max} that the column {column.name} takes")
    if layout.pads_keys and change.identity.endswith(b" "):
        raise RecordRefused(
            f"its key ends in blanks, which the collation {column.collation} does not tell apart: use VARBINARY, or a "
            "collation that does not pad"
        )


def _fields(record: Record) -> dict[str, Raw]:
    """Return a hash's fields. A name that is not UTF-8 keeps its bytes as surrogates, as no mapping has them."""
    assert record.body is not None
    try:
        body = json.loads(record.body)
    except (ValueError, RecursionError) as error:
        raise RecordRefused(f"its body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RecordRefused("the body of a hash is not an object")
    if record.body_encoding != BASE64:
        return {name: value if isinstance(value, str) else json_text(value) for name, value in body.items()}
    return {_decoded(name): _raw(value) for name, value in body.items()}


def _field_literals(fields: Mapping[str, Raw], layout: Layout) -> list[str]:
    values = []
    for (field, column), empty in zip(layout.fields, layout.empty, strict=True):
        if field.field in fields:
            values.append(_literal(field.field, fields, column, field.type, field.format))
        elif field.is_nullable or field.default is not None:
            values.append(empty)
        else:
            raise RecordRefused(f"the field {field.field!r} is missing, and its column has no default")
    return values


def _leftovers(change: Change, layout: Layout) -> list[str]:
    """Return the column of what no other column holds, where there is one; refuse the record where it must not be."""
    mapping = layout.mapping
    if mapping.unknown_fields == "ignore":
        return []
    assert change.fields is not None
    left = unknown_fields(change, layout)
    if mapping.unknown_fields == "extra":
        return [_extra({name: change.fields[name] for name in left})]
    if left:
        why = layout.why_not_added(left[0]) if mapping.adds_fields else "AURORA_MAPPING does not name it"
        raise RecordRefused(f"the field {_printable(left[0])} has no column: {why or 'it could not be added'}")
    return []


def _literal(name: str, fields: Mapping[str, Raw], column: Column, kind: str = "text", style: str = "") -> str:
    if name not in fields:
        return NULL
    try:
        return KINDS[kind].literal(fields[name], column, style)
    except ValueRefused as error:
        raise RecordRefused(f"the field {name!r} does not fit its column {column.name}: {error}") from None


def _extra(fields: Mapping[str, Raw]) -> str:
    if not fields:
        return NULL
    for name, value in fields.items():
        if isinstance(value, bytes):
            raise RecordRefused(f"the field {_printable(name)} is not UTF-8, which the JSON of extra_column can't hold")
    try:
        return quoted(json_text(dict(fields)))
    except ValueRefused as error:
        raise RecordRefused(f"a field that extra_column would hold is not text: {error}") from None


def _body(body: str | None) -> str:
    assert body is not None
    try:
        return KINDS["json"].literal(body, _ADDED_COLUMN, "")
    except ValueRefused as error:
        raise RecordRefused(f"its body does not fit body_column: {error}") from None


def _moment(now_ms: int, digits: int) -> str:
    moment = datetime.datetime.fromtimestamp(now_ms / 1_000, datetime.UTC).replace(tzinfo=None)
    text = moment.isoformat(" ", "milliseconds")
    # A moment is cut, never rounded into the future.
    return f"'{text[: 20 + min(digits, 3)].rstrip('.')}'"


def _decoded(text: str) -> str:
    return _bytes(text).decode(errors="surrogateescape")


def _raw(text: object) -> Raw:
    raw = _bytes(text)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise RecordRefused("it says that it is base64, and is not") from None


def _printable(name: str) -> str:
    return ascii(name)
