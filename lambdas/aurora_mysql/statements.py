"""SQL texts.  (pure)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from lambdas.aurora_mysql.mapping import TableMapping, sql_types
from lambdas.aurora_mysql.values import quoted

ADDED = "added for a field of a Redis hash"
"""The comment on a column that the function has added: by it other containers know the column."""

PACKET_BYTES_AROUND = 64
"""What the protocol puts around a statement, with room to spare."""


class Row(NamedTuple):
    """One row's part of a statement; ``size`` is its length in bytes.

    ``identity`` is the row's key as the server compares it: rows are written in its order, so that two statements that
    run at once take their locks in one order.
    """

    identity: bytes | int
    text: str
    size: int


@dataclass(frozen=True, slots=True)
class Form:
    """A statement of many rows: what stands before, between and after them, and one that does nothing.

    The server asks for the same rights, table and columns by ``probe``, which has no rows.
    """

    head: str
    joint: str
    tail: str
    probe: str

    def statement(self, rows: Sequence[Row]) -> str:
        """Return the statement that writes these rows."""
        return f"{self.head}{self.joint.join(row.text for row in rows)}{self.tail}"

    @property
    def bytes_around(self) -> int:
        """Return how long a statement is apart from its rows."""
        return len((self.head + self.tail).encode())


def name(identifier: str) -> str:
    """Return the name of a table or column as SQL has it."""
    return f"`{identifier.replace('`', '``')}`"


def upsert(mapping: TableMapping, columns: Sequence[str]) -> Form:
    """Return the statement that inserts rows, or replaces those that are older; the version's column is the last.

    The server assigns from left to right: the version is compared in each column, so it may change only after all.
    """
    table, version = name(mapping.table), name(columns[-1])
    names = ", ".join(map(name, columns))
    is_newer = f"COALESCE({version}, 0) < VALUES({version})"
    changes = ", ".join(
        f"{column} = IF({is_newer}, VALUES({column}), {column})"
        for column in map(name, columns)
        if column != name(mapping.key_column)
    )
    head = f"INSERT INTO {table} ({names})"
    tail = f" ON DUPLICATE KEY UPDATE {changes}"
    nothing = ", ".join(["NULL"] * len(columns))
    return Form(f"{head} VALUES ", ", ", tail, f"{head} SELECT {nothing} FROM DUAL WHERE FALSE{tail}")


def delete(mapping: TableMapping) -> Form:
    """Return the statement that deletes rows, each where it is older than what is known of its key."""
    head = f"DELETE FROM {name(mapping.table)} WHERE "
    return Form(head, " OR ", "", f"{head}FALSE AND {condition(mapping, 'NULL', 0)}")


def condition(mapping: TableMapping, key: str, version: int) -> str:
    """Return the part of a `delete` that stands for one row."""
    column = name(mapping.version_column)
    return f"({name(mapping.key_column)} = {key} AND COALESCE({column}, 0) < {version})"


def add_column(table: str, column: str, sql_type: str, *, is_ours: bool = False) -> str:
    """Return the statement that adds a column; ``is_ours`` one for a field that the mapping does not name."""
    comment = f" COMMENT {quoted(ADDED)}" if is_ours else ""
    return f"ALTER TABLE {name(table)} ADD COLUMN {name(column)} {sql_type} NULL{comment}"


def create_table(mapping: TableMapping) -> str:
    """Return the statement that makes the table which a mapping describes, as advice."""
    columns = (f"{name(column)} {sql_type}" for column, sql_type in sql_types(mapping).items())
    return f"CREATE TABLE {name(mapping.table)} ({', '.join(columns)})"


def columns_query(table: str) -> str:
    """Return the query for a table's columns, as `layout.facts_of` reads them."""
    return (
        "SELECT COLUMN_NAME, DATA_TYPE, IS_NULLABLE, CHARACTER_MAXIMUM_LENGTH, NUMERIC_SCALE, DATETIME_PRECISION,"
        " COLLATION_NAME, COLUMN_COMMENT, COLUMN_TYPE, GENERATION_EXPRESSION FROM information_schema.COLUMNS"
        f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = {quoted(table)} ORDER BY ORDINAL_POSITION"
    )


def indexes_query(table: str) -> str:
    """Return the query for the columns of a table's unique indexes, for the same."""
    return (
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS"
        f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = {quoted(table)} AND NON_UNIQUE = 0"
    )


def chunks(rows: Sequence[Row], joint_bytes: int, rows_max: int, bytes_max: int) -> Iterator[list[Row]]:
    """Cut rows, in their keys' order, into statements; a row of more than ``bytes_max`` has one of its own."""
    chunk: list[Row] = []
    size = 0
    for row in sorted(rows, key=attrgetter("identity")):
        if chunk and (len(chunk) == rows_max or size + joint_bytes + row.size > bytes_max):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += joint_bytes + row.size
    if chunk:
        yield chunk
