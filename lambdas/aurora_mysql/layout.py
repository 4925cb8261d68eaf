"""A mapping and the table as it is → how rows are written, or what is wrong with the two.  (pure)"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambdas.aurora_mysql import statements
from lambdas.aurora_mysql.mapping import FieldMapping, TableMapping, columns_of, sql_types
from lambdas.aurora_mysql.statements import Form
from lambdas.aurora_mysql.values import (
    BIT_OF_ONE,
    INTS,
    KINDS,
    NULL,
    NUMBER_CHARS_MAX,
    Column,
    ValueRefused,
    blank,
)
from lambdas.contract import SetupError

_KEY_TYPES: Mapping[str, frozenset[str]] = {
    "text": frozenset({"char", "varchar"}),
    "binary": frozenset({"varbinary"}),
    "int": frozenset(INTS),
}
_UNPADDED = re.compile(r"nopad|0900_bin")
_MEMBER = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "0": "\0"}
_ADDABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

TableFacts = tuple[Mapping[str, Column], Sequence[frozenset[str]]]
"""A table's columns by name, and the columns of each of its unique indexes; all names in lower case."""


@dataclass(frozen=True)
class Layout:
    """How a mapping's rows are written to its table as it is now.

    ``added`` are the columns that the function has added, by the field, which has their name. ``empty`` has the literal
    of each mapped column where there is no hash. ``missing`` are columns that are to be added before any write.
    """

    mapping: TableMapping
    key: Column
    fields: tuple[tuple[FieldMapping, Column], ...]
    empty: tuple[str, ...]
    added: Mapping[str, Column]
    taken: frozenset[str]
    deleted_at_digits: int = 0
    missing: tuple[str, ...] = ()

    @functools.cached_property
    def pads_keys(self) -> bool:
        """Tell whether the server takes keys for the same that differ in blanks at their end."""
        is_text = bool(self.key.collation)
        return is_text and (self.key.data_type == "char" or not _UNPADDED.search(self.key.collation))

    @functools.cached_property
    def named(self) -> frozenset[str]:
        """Return the fields that have a column."""
        return frozenset(field.field for field, _ in self.fields) | frozenset(self.added)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the columns in the order of a row's values."""
        mapping = self.mapping
        deleted_at = mapping.deleted_at_column if mapping.leaves_tombstones else ""
        own = (mapping.extra_column, mapping.body_column, deleted_at)
        mapped = (column.name for _, column in self.fields)
        added = (column.name for column in self.added.values())
        return (mapping.key_column, *mapped, *added, *filter(None, own), mapping.version_column)

    @functools.cached_property
    def upsert(self) -> Form:
        """Return the statement that writes rows."""
        return statements.upsert(self.mapping, self.columns)

    @functools.cached_property
    def delete(self) -> Form:
        """Return the statement that deletes rows."""
        return statements.delete(self.mapping)

    def why_not_added(self, field: str) -> str:
        """Return why a field that the mapping does not name can't have a column of its own; "" if it can."""
        if not _ADDABLE.fullmatch(field):
            return "its name cannot become a column's name: up to 64 of A-Z, a-z, 0-9 and _"
        if field.casefold() in self.taken:
            return f"the table has a column {field.casefold()} of another purpose"
        if len(self.added) >= self.mapping.added_columns_max:
            return f"the table has {len(self.added)} columns that were added, and added_columns_max allows no more"
        return ""


def facts_of(columns: Iterable[Sequence[Any]], indexes: Iterable[Sequence[Any]]) -> TableFacts:
    """Return what the rows of `statements.columns_query` and `statements.indexes_query` say."""
    found = [_column(row) for row in columns]
    unique: dict[str, set[str]] = {}
    for index, column, prefix in indexes:
        # The beginning of a column, or an expression, is not that column.
        whole = column is not None and prefix is None
        unique.setdefault(index, set()).add(column.casefold() if whole else f"part of {column}")
    return {column.name.casefold(): column for column in found}, [frozenset(names) for names in unique.values()]


def bind(mapping: TableMapping, facts: TableFacts) -> Layout:
    """Return the layout; raise `SetupError`, with all that is wrong, where the mapping does not fit the table."""
    columns, unique = facts
    if not columns:
        what = f"no table {mapping.table} that the user may write to: grant INSERT, UPDATE and SELECT on it"
        raise SetupError(f"{what}, or create it, as in: {statements.create_table(mapping)}")
    wanted = columns_of(mapping)
    missing = tuple(column for column in wanted if column.casefold() not in columns)
    present = {column: columns[column.casefold()] for column in wanted if column not in missing}
    problems = _missing_problems(mapping, missing)
    problems += [f"column {name}: {problem}" for name, column in present.items() for problem in _unfit(mapping, column)]
    # What is written changes what is generated from it.
    generated = {name for name, column in columns.items() if column.is_generated}
    problems += _index_problems(mapping, unique, {name.casefold() for name in wanted} | generated)
    fields = tuple((field, present.get(field.column, _to_be_added(field))) for field in mapping.fields)
    empty: list[str] = []
    for field, column in fields:
        try:
            empty.append(_empty(field, column))
        except ValueRefused as error:
            problems.append(f"column {field.column}: its default can't be stored: {error}")
    if problems:
        raise SetupError(f"the table {mapping.table} does not fit AURORA_MAPPING: {'; '.join(problems)}")
    named = {name.casefold() for name in wanted}
    added = {}
    if mapping.adds_fields:
        added = {one.name: one for name, one in columns.items() if one.is_ours and one.name.casefold() not in named}
    deleted_at = present.get(mapping.deleted_at_column)
    return Layout(
        mapping,
        present[mapping.key_column],
        fields,
        tuple(empty),
        added,
        frozenset(columns) | named,
        deleted_at.digits if deleted_at else 3,
        missing,
    )


def _missing_problems(mapping: TableMapping, missing: Sequence[str]) -> list[str]:
    """Return what is wrong with columns that are not there: the key's can't be added, others only where they may."""
    types = sql_types(mapping)
    told = [] if mapping.missing_columns == "add" else [column for column in missing if column != mapping.key_column]
    problems = [f"no column {one}: {statements.add_column(mapping.table, one, types[one])}" for one in told]
    if mapping.key_column in missing:
        problems.append(f"no column {mapping.key_column}, which is to be the key")
    return problems


def _unfit(mapping: TableMapping, column: Column) -> list[str]:
    """Return why a column can't hold what the mapping puts there."""
    name, data_type = column.name.casefold(), column.data_type
    if column.is_generated:
        return ["the server generates its values, so nothing can be written to it: leave it out, or map another"]
    if name == mapping.key_column.casefold():
        return _key_problems(mapping, column)
    if name == mapping.version_column.casefold():
        return [] if data_type == "bigint" else [f"the version needs the type bigint, and it is {data_type}"]
    if name == mapping.deleted_at_column.casefold() and mapping.leaves_tombstones:
        fits = data_type in {"datetime", "timestamp"} and column.is_nullable
        return [] if fits else ["it records when a key was deleted, and needs the type DATETIME(3) NULL"]
    field = next((field for field in mapping.fields if field.column.casefold() == name), None)
    kind = KINDS[field.type if field else "json"]
    problems = []
    if data_type not in kind.data_types:
        wanted = ", ".join(sorted(kind.data_types))
        problems.append(f"its type is {data_type}, and {field.type if field else 'json'} needs one of {wanted}")
    if not column.is_nullable and (field is None or (field.is_nullable and field.default is None)):
        problems.append('it is NOT NULL: make it nullable, or say "nullable": false or a default')
    return problems


def _key_problems(mapping: TableMapping, column: Column) -> list[str]:
    allowed = _KEY_TYPES[mapping.key_type]
    if column.data_type not in allowed:
        wanted = ", ".join(sorted(allowed))
        return [f"its type is {column.data_type}, and a key of type {mapping.key_type} needs one of {wanted}"]
    if column.collation and not (column.collation.startswith("utf8mb4") and column.collation.endswith("_bin")):
        what = f"its collation {column.collation} takes different keys for the same one"
        return [f"{what}: use VARCHAR(…) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, or VARBINARY(…)"]
    return []


def _index_problems(mapping: TableMapping, unique: Sequence[frozenset[str]], written: set[str]) -> list[str]:
    """See that a row is found by its key, and by nothing else: an upsert replaces whatever a unique index finds."""
    key = mapping.key_column.casefold()
    if frozenset({key}) not in unique:
        return [f"column {mapping.key_column}: make it the primary key, or give it a unique index of its own"]
    others = [names for names in unique if key not in names and any(n in written or " " in n for n in names)]
    return [
        f"the unique index on {', '.join(sorted(names))} could have a key replace another key's row: remove it"
        for names in others
    ]


def _to_be_added(field: FieldMapping) -> Column:
    # What it can hold is seen when it is there.
    return Column(field.column, "", digits=NUMBER_CHARS_MAX)


def _empty(field: FieldMapping, column: Column) -> str:
    """Return the literal of a column where there is no hash, or no such field and a default."""
    if field.default is not None:
        return KINDS[field.type].literal(field.default, column, field.format)
    return NULL if field.is_nullable else blank(field.type, column)


def _column(row: Sequence[Any]) -> Column:
    name, data_type, nullable, length, scale, precision, collation, comment, column_type, generation = row
    data_type = BIT_OF_ONE if column_type.lower() == BIT_OF_ONE else data_type.lower()
    collation = collation or ""
    has_members = data_type in {"enum", "set"}
    length = 0 if has_members else length
    is_short = data_type in {"char", "varchar"}
    # Other character sets than UTF-8 have other lengths in bytes.
    in_bytes = not is_short and (not collation or collation.startswith("utf8"))
    return Column(
        name,
        data_type,
        nullable == "YES",
        int(length or 0) if is_short else 0,
        int(length or 0) if in_bytes else 0,
        int(precision if precision is not None else scale or 0),
        collation,
        comment == statements.ADDED,
        _members(column_type) if has_members else (),
        bool(generation),
    )


def _members(column_type: str) -> tuple[str, ...]:
    """Return the members of an ENUM or a SET, from ``enum('a','it''s')``."""
    return tuple(
        _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]) if found[1] else "'", member)
        for member in _MEMBER.findall(column_type)
    )
