"""The mapping: which keys go to which table, and which fields to which columns.  (pure)"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lambdas.aurora_mysql.values import DATETIME_FORMATS, ISO, KINDS, json_text
from lambdas.contract import SetupError

KEY_TYPES = ("text", "binary", "int")
UNKNOWN_FIELDS = ("ignore", "extra", "add", "fail")
MISSING_COLUMNS = ("fail", "add")
DELETES = ("tombstone", "delete")
ADDED_COLUMNS_MAX = 500
"""InnoDB has room for about 1,000 columns in a table."""

_NAME = re.compile(r"[^\0`/\\.]{1,64}")
_TOKEN = re.compile(
    r"(?P<stars>\*+)|(?P<one>\?)|\[(?P<not>\^?)(?P<class>(?:\\.|[^\]\\])*)\]|\\(?P<quoted>.)|(?P<plain>.)", re.DOTALL
)
_SPAN = re.compile(r"(\\.|.)(?:-(\\.|.))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Where a field goes; ``default`` is the text that stands for a field that is missing, None for NULL."""

    field: str
    column: str
    type: str
    is_nullable: bool = True
    default: str | None = None
    format: str = ISO


@dataclass(frozen=True)
class TableMapping:
    """What becomes of the keys that match one of the globs; the README of this folder documents each setting."""

    globs: tuple[str, ...]
    table: str
    key_column: str
    fields: tuple[FieldMapping, ...]
    key_type: str = "text"
    key_prefix: str = ""
    unknown_fields: str = "ignore"
    extra_column: str = ""
    added_columns_max: int = 20
    missing_columns: str = "fail"
    body_column: str = ""
    version_column: str = "version"
    deletes: str = "tombstone"
    deleted_at_column: str = "deleted_at"
    takes: Callable[[str], object] = field(default=lambda _key: False, compare=False, repr=False)

    @property
    def leaves_tombstones(self) -> bool:
        """Tell whether a row outlives its key, so that no older value can bring it back."""
        return self.deletes == "tombstone"

    @property
    def adds_fields(self) -> bool:
        """Tell whether a field that the mapping does not name gets a column."""
        return self.unknown_fields == "add"


def read_mappings(text: str) -> tuple[TableMapping, ...]:
    """Return the mappings, the first that takes a key has it; raise `SetupError`, which names place and remedy."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise SetupError(f"AURORA_MAPPING is not JSON: {error}") from None
    if isinstance(raw, dict):
        raw = [raw]
    if not isinstance(raw, list) or not raw:
        raise SetupError("AURORA_MAPPING is not a list of mappings, each with keys, table, key and columns")
    mappings = tuple(_mapping(_Object(one, f"AURORA_MAPPING[{at}]")) for at, one in enumerate(raw))
    tables = [mapping.table.casefold() for mapping in mappings]
    twice = next((name for name in tables if tables.count(name) > 1), None)
    if twice is not None:
        raise SetupError(f"AURORA_MAPPING has two mappings for the table {twice}: name all of its keys in one")
    return mappings


def mapping_of(key: str, mappings: Collection[TableMapping]) -> TableMapping | None:
    """Return the first mapping that takes the key, or None."""
    return next((mapping for mapping in mappings if mapping.takes(key)), None)


class _Object:
    """A JSON object whose members are taken one by one, each with its place and type checked."""

    def __init__(self, raw: Any, place: str) -> None:
        if not isinstance(raw, dict):
            raise SetupError(f"{place} is {json_text(raw)}: an object is expected")
        self._raw: dict[str, Any] = dict(raw)
        self.place = place

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """Return a member and strike it off; without a default it has to be there."""
        value = self._raw.pop(name, default)
        if value is None:
            raise SetupError(f"{self.place}.{name} is missing")
        # A bool is an int to Python.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise SetupError(f"{self.place}.{name} is {json_text(value)}: a value of type {kind.__name__} is expected")
        return value

    def pop(self, name: str) -> Any:
        """Return a member of any type and strike it off; None if it is not there."""
        return self._raw.pop(name, None)

    def name(self, name: str, default: str | None = None) -> str:
        """Return the name of a table or column."""
        value: str = self.take(name, str, default)
        if value and not _NAME.fullmatch(value):
            raise SetupError(
                f"{self.place}.{name} is {value!r}, which is not a valid name: 1 to 64 characters, none of `/\\."
            )
        return value

    def one_of(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of the words that are allowed."""
        value: str = self.take(name, str, default)
        if value not in allowed:
            raise SetupError(f"{self.place}.{name} is {value!r}: allowed are {', '.join(allowed)}")
        return value

    def done(self) -> None:
        """See that nothing is left: a setting that is not known would be without effect."""
        if self._raw:
            raise SetupError(f"{self.place} has {next(iter(self._raw))!r}, which is not a setting")


def _mapping(raw: _Object) -> TableMapping:
    globs = tuple(raw.take("keys", list))
    if not globs or not all(isinstance(glob, str) for glob in globs):
        raise SetupError(f'{raw.place}.keys is not a list of globs, as in ["cart:*"]')
    key = _Object(raw.take("key", dict), f"{raw.place}.key")
    fields = tuple(_field(name, spec, raw.place) for name, spec in raw.take("columns", dict).items())
    mapping = TableMapping(
        globs,
        raw.name("table"),
        key.name("column"),
        fields,
        key.one_of("type", KEY_TYPES, TableMapping.key_type),
        key.take("prefix", str, ""),
        raw.one_of("unknown_fields", UNKNOWN_FIELDS, TableMapping.unknown_fields),
        raw.name("extra_column", ""),
        raw.take("added_columns_max", int, TableMapping.added_columns_max),
        raw.one_of("missing_columns", MISSING_COLUMNS, TableMapping.missing_columns),
        raw.name("body_column", ""),
        raw.name("version_column", TableMapping.version_column),
        raw.one_of("deletes", DELETES, TableMapping.deletes),
        raw.name("deleted_at_column", TableMapping.deleted_at_column),
        _matcher(globs),
    )
    key.done()
    raw.done()
    _check(mapping, raw.place)
    return mapping


def _field(name: str, spec: Any, place: str) -> FieldMapping:
    """Read a column: ``"int"``, or an object that says more."""
    raw = _Object({"type": spec} if isinstance(spec, str) else spec, f"{place}.columns[{json_text(name)}]")
    default = raw.pop("default")
    kind = raw.one_of("type", KINDS)
    mapped = FieldMapping(
        name,
        raw.name("column", name),
        kind,
        raw.take("nullable", bool, True),
        default if default is None or isinstance(default, str) else json_text(default),
        raw.one_of("format", DATETIME_FORMATS, ISO),
    )
    raw.done()
    if not mapped.column:
        raise SetupError(f"{raw.place}.column is empty")
    return mapped


def _check(mapping: TableMapping, place: str) -> None:
    """See that the settings fit together, and that no two things want one column."""
    if not (mapping.table and mapping.key_column and mapping.version_column):
        raise SetupError(f"{place}: neither table, nor key.column, nor version_column may be empty")
    if mapping.leaves_tombstones and not mapping.deleted_at_column:
        raise SetupError(f'{place}.deleted_at_column is empty: name the column, or say "deletes": "delete"')
    if (mapping.unknown_fields == "extra") != bool(mapping.extra_column):
        raise SetupError(f'{place}: "unknown_fields": "extra" and extra_column go together')
    if not 0 <= mapping.added_columns_max <= ADDED_COLUMNS_MAX:
        raise SetupError(f"{place}.added_columns_max is not from 0 to {ADDED_COLUMNS_MAX}")
    seen: set[str] = set()
    for column in columns_of(mapping):
        # To MySQL, names of columns are the same in capitals.
        if column.casefold() in seen:
            raise SetupError(f"{place} uses the column {column} twice")
        seen.add(column.casefold())


def columns_of(mapping: TableMapping) -> list[str]:
    """Return the columns that the mapping names, the key's first and the version's last."""
    deleted_at = mapping.deleted_at_column if mapping.leaves_tombstones else ""
    own = (mapping.extra_column, mapping.body_column, deleted_at)
    fields = (mapped.column for mapped in mapping.fields)
    return [mapping.key_column, *fields, *filter(None, own), mapping.version_column]


def sql_types(mapping: TableMapping) -> Mapping[str, str]:
    """Return a type for each column that the mapping names, as in ``CREATE TABLE``."""
    key = {
        "text": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "binary": "VARBINARY(255)",
        "int": "BIGINT",
    }
    types = {mapping.key_column: f"{key[mapping.key_type]} NOT NULL PRIMARY KEY"}
    types.update((mapped.column, KINDS[mapped.type].sql_type) for mapped in mapping.fields)
    types.update((column, "JSON") for column in (mapping.extra_column, mapping.body_column) if column)
    if mapping.leaves_tombstones:
        types[mapping.deleted_at_column] = "DATETIME(3)"
    types[mapping.version_column] = "BIGINT"
    return types


def _matcher(globs: Collection[str]) -> Callable[[str], object]:
    r"""Return the test whether one of the globs takes a key: ``*``, ``?``, ``[a-z]``, ``[^a-z]``, ``\`` as in Redis."""
    expressions = ("".join(map(_expression, _TOKEN.finditer(glob))) for glob in globs)
    return re.compile("|".join(expressions), re.DOTALL).fullmatch


def _expression(token: re.Match[str]) -> str:
    """Return the regular expression of a part of a glob."""
    if token["stars"]:
        return ".*"
    if token["one"]:
        return "."
    if token["class"] is None:
        return re.escape(token["quoted"] or token["plain"])
    spans = []
    for low, high in _SPAN.findall(token["class"]):
        ends = sorted((low[-1], (high or low)[-1]))
        spans.append("-".join(map(re.escape, ends)))
    if not spans:
        return "." if token["not"] else "(?!)"
    return f"[{token['not']}{''.join(spans)}]"
