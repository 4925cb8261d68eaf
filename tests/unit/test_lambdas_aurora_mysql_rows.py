from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from lambdas.aurora_mysql.layout import Layout, bind, facts_of
from lambdas.aurora_mysql.mapping import TableMapping, read_mappings
from lambdas.aurora_mysql.rows import RecordRefused, change_of, row_of
from lambdas.aurora_mysql.statements import ADDED, Row, chunks, delete, upsert
from lambdas.contract import Record, SetupError

MAPPING: dict[str, Any] = {
    "keys": ["cart:*"],
    "table": "carts",
    "key": {"column": "id", "prefix": "cart:"},
    "columns": {"owner": "text", "qty": {"column": "quantity", "type": "int"}},
}
BIN = "utf8mb4_bin"
# As information_schema tells of them: name, type, nullable, characters, scale, precision, collation, comment, the
# type in full, and what a generated column is made of.
KEY = ("id", "varchar", "NO", 64, None, None, BIN, "", "", None)
OWNER = ("owner", "varchar", "YES", 20, None, None, "utf8mb4_general_ci", "", "", None)
QUANTITY = ("quantity", "int", "YES", None, 0, None, None, "", "", None)
DELETED_AT = ("deleted_at", "datetime", "YES", None, None, 3, None, "", "", None)
VERSION = ("version", "bigint", "NO", None, 0, None, None, "", "", None)
PRIMARY = ("PRIMARY", "id", None)


def mapping(**more: Any) -> TableMapping:
    (read,) = read_mappings(json.dumps([MAPPING | more]))
    return read


def layout(*columns: Any, **more: Any) -> Layout:
    known = {column[0]: column for column in (KEY, OWNER, QUANTITY, DELETED_AT, VERSION, *columns)}
    return bind(mapping(**more), facts_of(known.values(), [PRIMARY]))


def record(key: str = "cart:7", body: str | None = '{"owner":"a"}', version: int = 5, **more: Any) -> Record:
    return Record("0", key, key, body, version=version, **more)


def text_of(one: Record, used: Layout, now_ms: int = 0) -> str:
    return row_of(change_of(one, (used.mapping,)), used, now_ms).text


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_and_its_tombstone() -> None:
    """A hash sets its columns and clears the mark of deletion; a key that is gone leaves mark and version alone."""
    used = layout()
    assert used.columns == ("id", "owner", "quantity", "deleted_at", "version")
    assert text_of(record(body='{"owner":"a","qty":"2"}'), used) == "('7','a',2,NULL,5)"
    assert text_of(record(body=None), used, 1_763_890_010_123) == "('7',NULL,NULL,'2025-11-23 09:26:50.123',5)"
    coarse = layout(("deleted_at", "datetime", "YES", None, None, 0, None, "", "", None))
    assert text_of(record(body=None), coarse, 1_763_890_010_999) == "('7',NULL,NULL,'2025-11-23 09:26:50',5)"


def test_a_real_delete_asks_for_an_older_row() -> None:
    """Where rows are deleted, a delete stands for one key and what is older."""
    assert text_of(record(body=None), layout(deletes="delete")) == "(`id` = '7' AND COALESCE(`version`, 0) < 5)"


def test_missing_fields_and_defaults() -> None:
    """A default stands for a field that is missing, and a field that is needed fails its record."""
    columns = {"owner": {"type": "text", "nullable": False}, "qty": {"type": "int", "column": "quantity", "default": 3}}
    used = layout(columns=columns)
    assert text_of(record(body='{"owner":"a"}'), used) == "('7','a',3,NULL,5)"
    assert text_of(record(body=None), used).startswith("('7','',3,")
    with pytest.raises(RecordRefused, match="'owner' is missing"):
        text_of(record(body="{}"), used)


def test_unknown_fields() -> None:
    """They are ignored, kept as JSON, or fail their record, as the mapping says."""
    body = '{"owner":"a","z":"1","b":"2"}'
    assert text_of(record(body=body), layout()) == "('7','a',NULL,NULL,5)"
    extra = layout(
        ("extra", "json", "YES", None, None, None, None, "", "", None), unknown_fields="extra", extra_column="extra"
    )
    assert text_of(record(body=body), extra) == '(\'7\',\'a\',NULL,\'{"b":"2","z":"1"}\',NULL,5)'
    assert text_of(record(body='{"owner":"a"}'), extra) == "('7','a',NULL,NULL,NULL,5)"
    with pytest.raises(RecordRefused, match=r"'z' has no column: AURORA_MAPPING does not name it"):
        text_of(record(body=body), layout(unknown_fields="fail"))


def test_columns_that_were_added() -> None:
    """Such a column is known by its comment, and is NULL where the field is missing; others are left alone."""
    ours = ("colour", "text", "YES", 65_535, None, None, "utf8mb4_general_ci", ADDED, "", None)
    theirs = ("note", "text", "YES", 65_535, None, None, "utf8mb4_general_ci", "", "", None)
    used = layout(ours, theirs, unknown_fields="add", added_columns_max=2)
    assert text_of(record(body='{"colour":"red"}'), used) == "('7',NULL,NULL,'red',NULL,5)"
    assert text_of(record(), used) == "('7','a',NULL,NULL,NULL,5)"
    assert used.why_not_added("size") == ""
    assert "another purpose" in used.why_not_added("Note")
    assert "another purpose" in used.why_not_added("Colour")
    assert "its name" in used.why_not_added("größe")
    full = layout(ours, unknown_fields="add", added_columns_max=1)
    assert "allows no more" in full.why_not_added("size")


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (record("cart"), "no mapping"),
        (record(version=0), "no version"),
        (record(version=1 << 63), "no version"),
        (record(body="{"), "not JSON"),
        (record(body="[]"), "not an object"),
        (record(body="[" * 100_000), "not JSON"),
        (record(body='"x"', type="string"), "takes only hashes"),
        (record("cart:\udc80"), "not UTF-8"),
        (record("cart:\ud800"), "not text"),
        (record("cart:" + "x" * 65), "longer than the 64"),
        (record("cart:a "), "ends in blanks"),
        (record("%%", id_encoding="base64"), "base64"),
        (record(body='{"a":"%"}', body_encoding="base64"), "base64"),
        (record(body='{"YQ==":1}', body_encoding="base64"), "base64"),
    ],
)
def test_records_that_cannot_be_rows(one: Record, told: str) -> None:
    """Each is refused with its reason, by an error that concerns it alone."""
    with pytest.raises(RecordRefused) as error:
        text_of(one, layout())
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["7", "0", "-12"])
def test_a_key_that_is_a_number(text: str) -> None:
    """Where the key is a number, only the one way to write it is a key: no two keys meet in one row."""
    key = ("id", "bigint", "NO", None, 0, None, None, "", "", None)
    used = layout(key, key=MAPPING["key"] | {"type": "int"})
    assert text_of(record(f"cart:{text}"), used).startswith(f"({text},")
    for other in (f"0{text}", f"+{text}", f"{text} ", f"{text}.0", "", "-0"):
        with pytest.raises(RecordRefused, match="not a whole number"):
            text_of(record(f"cart:{other}"), used)


def test_a_key_of_any_bytes() -> None:
    """A binary key column takes every key, blanks at its end too."""
    key = ("id", "varbinary", "NO", 64, None, None, None, "", "", None)
    used = layout(key, key=MAPPING["key"] | {"type": "binary"})
    odd = base64.b64encode(b"cart:\xff ").decode()
    assert text_of(record(odd, id_encoding="base64"), used).startswith("(X'ff20',")


def test_a_key_without_the_prefix() -> None:
    """Stripped and unstripped keys could meet, so a mapping with a prefix takes no key without it."""
    used = layout(keys=["*"])
    with pytest.raises(RecordRefused, match="does not begin with 'cart:'"):
        text_of(record("other:7"), used)


# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indexes", "told"),
    [
        ([], "make it the primary key"),
        ([("PRIMARY", "id", 10)], "make it the primary key"),
        ([("PRIMARY", "id", None), ("PRIMARY", "owner", None)], "make it the primary key"),
        ([PRIMARY, ("u", "owner", None)], "the unique index on owner"),
        ([PRIMARY, ("u", None, None)], "the unique index on"),
    ],
)
def test_indexes_that_an_upsert_cannot_work_with(indexes: list[Any], told: str) -> None:
    """A row has to be found by its key, and by nothing else that is written."""
    with pytest.raises(SetupError) as error:
        bind(mapping(), facts_of([KEY, OWNER, QUANTITY, DELETED_AT, VERSION], indexes))
    assert told in str(error.value)


def test_indexes_that_do_no_harm() -> None:
    """An index that holds the key, or only columns that are not written, can't name another key's row."""
    number = ("nr", "bigint", "NO", None, 0, None, None, "", "", None)
    indexes = [("PRIMARY", "nr", None), ("k", "id", None), ("both", "id", None), ("both", "owner", None)]
    assert bind(mapping(), facts_of([number, KEY, OWNER, QUANTITY, DELETED_AT, VERSION], indexes)).missing == ()


def test_all_that_is_wrong_with_a_table_is_told_at_once() -> None:
    """The user mends the table once."""
    with pytest.raises(SetupError) as error:
        bind(mapping(), facts_of([KEY, ("owner", "int", "YES", None, 0, None, None, "", "", None)], []))
    for told in ("no column quantity", "no column version", "column owner: its type is int", "make it the primary key"):
        assert told in str(error.value)


def test_columns_that_may_be_added_are_only_named() -> None:
    """Where missing columns are added, the layout names them, the key's column never."""
    facts = facts_of([KEY, VERSION], [PRIMARY])
    assert bind(mapping(missing_columns="add"), facts).missing == ("owner", "quantity", "deleted_at")
    with pytest.raises(SetupError, match="no column id, which is to be the key"):
        bind(mapping(missing_columns="add"), facts_of([OWNER, VERSION], [PRIMARY]))


@pytest.mark.parametrize(
    ("collation", "pads"),
    [(BIN, True), ("utf8mb4_nopad_bin", False), ("utf8mb4_0900_bin", False)],
)
def test_collations_that_pad(collation: str, pads: bool) -> None:
    """Which keys are the same to the server follows from the collation's name."""
    assert layout((*KEY[:6], collation, "", "", None)).pads_keys is pads


# --- statements ---------------------------------------------------------------------------------


def test_an_upsert_assigns_the_version_last() -> None:
    """The server assigns from left to right, and compares the version in each: it may change only after all others."""
    form = upsert(mapping(), ("id", "a`b", "version"))
    assert form.statement([Row(b"1", "('1',2,3)", 9), Row(b"2", "('2',2,3)", 9)]) == (
        "INSERT INTO `carts` (`id`, `a``b`, `version`) VALUES ('1',2,3), ('2',2,3) ON DUPLICATE KEY UPDATE "
        "`a``b` = IF(COALESCE(`version`, 0) < VALUES(`version`), VALUES(`a``b`), `a``b`), "
        "`version` = IF(COALESCE(`version`, 0) < VALUES(`version`), VALUES(`version`), `version`)"
    )
    assert "WHERE FALSE ON DUPLICATE KEY UPDATE" in form.probe
    assert (
        delete(mapping()).statement([Row(b"1", "(x)", 3), Row(b"2", "(y)", 3)])
        == "DELETE FROM `carts` WHERE (x) OR (y)"
    )


def test_rows_are_written_in_the_order_of_their_keys() -> None:
    """Two statements at once take their locks in one order; numbers are ordered as numbers."""
    rows = [Row(key, "x", 1) for key in (b"b", b"\xff", b"a")]
    assert [row.identity for chunk in chunks(rows, 2, 9, 999) for row in chunk] == [b"a", b"b", b"\xff"]
    numbers = [Row(key, "x", 1) for key in (10, 9, -1)]
    assert [row.identity for chunk in chunks(numbers, 2, 9, 999) for row in chunk] == [-1, 9, 10]


def test_statements_are_bounded_by_rows_and_bytes() -> None:
    """A statement has at most so many rows and bytes; a row that is larger has one of its own."""
    rows = [Row(n, "x" * size, size) for n, size in enumerate([10, 10, 10, 50, 10])]
    assert [[row.size for row in chunk] for chunk in chunks(rows, 2, 2, 999)] == [[10, 10], [10, 50], [10]]
    assert [[row.size for row in chunk] for chunk in chunks(rows, 2, 9, 30)] == [[10, 10], [10], [50], [10]]
