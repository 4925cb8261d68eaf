"""Columns of the less usual types, on a real server: what they take, what they refuse, and what is generated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from lambdas.aurora_mysql import handler as function
from lambdas.contract import SetupError
from tests.mariadb import MariaDB, mariadb_server, needs_mariadb

pytestmark = needs_mariadb

UUID = "6ccd780c-baba-1026-9564-5b8c656024db"
MEMBERS = "'', 'red', '2', 'it''s', 'back\\\\slash', 'a,b', 'grün', 'new\\nline'"


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    with mariadb_server() as running:
        yield running


Use = Callable[..., None]


@pytest.fixture
def use(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Return what makes the table ``things`` with a column c of this type, and the function that writes it."""

    def forget() -> None:
        function._settings.cache_clear()
        function._writer.cache_clear()

    def make(sql_type: str, kind: str, more: str = "", table: str = "", **options: Any) -> None:
        server.execute(
            "CREATE OR REPLACE TABLE things (id VARBINARY(64) PRIMARY KEY, deleted_at DATETIME(3), version BIGINT,"
            f" c {sql_type} {more}) CHARACTER SET utf8mb4 {table}"
        )
        mapping = {"keys": ["*"], "table": "things", "key": {"column": "id", "type": "binary"}}
        mapping |= {"columns": {"c": {"type": kind, **options}}}
        for name in [name for name in os.environ if name.startswith("AURORA_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment(AURORA_MAPPING=json.dumps([mapping])).items():
            monkeypatch.setenv(name, value)
        forget()

    yield make
    forget()


def invoke(*values: str | None) -> list[str]:
    """Write each value under a key of its number; return the values that failed."""
    records = [
        {"record_id": str(n), "id": f"{n}", "body": None if value is None else json.dumps({"c": value}), "version": 1}
        for n, value in enumerate(values)
    ]
    answer = function.handler({"records": records}, Context())
    return [str(values[int(failure["itemIdentifier"])]) for failure in answer["batchItemFailures"]]


def stored(server: MariaDB) -> list[Any]:
    return [row[0] for row in server.execute("SELECT c FROM things ORDER BY CAST(id AS INT)")]


@pytest.mark.parametrize(
    ("sql_type", "kind", "taken", "read", "refused"),
    [
        (
            f"ENUM({MEMBERS})",
            "text",
            ["red", "2", "it's", "back\\slash", "a,b", "grün", "new\nline", ""],
            ["red", "2", "it's", "back\\slash", "a,b", "grün", "new\nline", ""],
            ["Red", "1", "7", "blue", "red ", "a"],
        ),
        ("SET('x','y','it''s')", "text", ["x", "y,x", "", "it's"], ["x", "x,y", "", "it's"], ["3", "X", "x,z", "x, y"]),
        (
            "TIME(3)",
            "time",
            ["12:34", "-838:59:59", "00:00:00.5", "1:02:03.450000"],
            [
                timedelta(hours=12, minutes=34),
                -timedelta(hours=838, minutes=59, seconds=59),
                timedelta(seconds=0.5),
                timedelta(hours=1, minutes=2, seconds=3.45),
            ],
            ["839:00:00", "12", "12:60", "1:2:3", "00:00:00.0001", "noon", "1 12:00"],
        ),
        ("YEAR", "int", ["2026", "1901", "2155", "0"], [2026, 1901, 2155, 0], ["5", "26", "1900", "2156", "-1", "x"]),
        ("BIT(1)", "bool", ["yes", "0", "true"], [b"\1", b"\0", b"\1"], ["2", "x"]),
        (
            "UUID",
            "text",
            [UUID, UUID.upper()],
            [UUID, UUID],
            ["", "x", UUID[:-1], f"{{{UUID}}}", UUID.replace("-", "")],
        ),
    ],
)
def test_a_type_takes_what_it_can_hold(
    server: MariaDB, use: Use, sql_type: str, kind: str, taken: list[str], read: list[Any], refused: list[str]
) -> None:
    """What the column holds comes back as it was, and what it would silently change fails alone."""
    use(sql_type, kind)
    function.handler({"records": []}, Context())
    assert invoke(*taken, *refused) == refused
    assert stored(server) == read


@pytest.mark.parametrize(
    ("sql_type", "kind", "value", "blank"),
    [
        ("ENUM('red','blue')", "text", "blue", "red"),
        ("SET('x')", "text", "x", ""),
        ("TIME", "time", "12:00", timedelta()),
        ("YEAR", "int", "2026", 0),
        ("BIT(1)", "bool", "1", b"\0"),
        ("UUID", "text", UUID, "00000000-0000-0000-0000-000000000000"),
    ],
)
def test_a_tombstone_fits_a_column_that_is_never_null(
    server: MariaDB, use: Use, sql_type: str, kind: str, value: str, blank: Any
) -> None:
    """A deleted key leaves its row with a value that the type has."""
    use(sql_type, kind, "NOT NULL", nullable=False)
    assert invoke(value) == []
    records = [{"record_id": "0", "id": "0", "body": None, "version": 2}]
    assert function.handler({"records": records}, Context()) == {"batchItemFailures": []}
    assert stored(server) == [blank]


ROW_START = "GENERATED ALWAYS AS ROW START, e TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME(c, e)"


@pytest.mark.parametrize(
    ("sql_type", "more", "table"),
    [
        ("BIGINT", "AS (version + 1) VIRTUAL", ""),
        ("BIGINT", "AS (version + 1) STORED", ""),
        ("TIMESTAMP(6)", ROW_START, "WITH SYSTEM VERSIONING"),
    ],
)
def test_a_generated_column_is_a_setup_error(use: Use, sql_type: str, more: str, table: str) -> None:
    """A mapping that names one is refused before the first write, with the column and what to do."""
    use(sql_type, "datetime" if table else "int", more, table)
    for batch in ([], [{"record_id": "0", "id": "0", "body": '{"c":"1"}', "version": 1}]):
        with pytest.raises(SetupError, match="column c: the server generates its values"):
            function.handler({"records": batch}, Context())


def test_a_default_is_not_generated(server: MariaDB, use: Use) -> None:
    """A column with a default, be it an expression, is written like all."""
    use("DATETIME", "datetime", "DEFAULT (CURRENT_TIMESTAMP + INTERVAL 1 DAY) ON UPDATE CURRENT_TIMESTAMP")
    assert invoke("2026-01-31T12:00:00") == []


def test_an_index_on_what_is_generated_from_what_is_written(server: MariaDB, use: Use) -> None:
    """Its column follows the written one, so a key could replace another key's row: it is refused."""
    use("INT", "int", ", g INT AS (c % 10) STORED UNIQUE")
    with pytest.raises(SetupError, match="the unique index on g could have a key replace"):
        function.handler({"records": []}, Context())


def test_wider_bits_are_refused(server: MariaDB, use: Use) -> None:
    """A truth is one bit; the error names what fits."""
    use("BIT(8)", "bool")
    with pytest.raises(SetupError, match=r"its type is bit, and bool needs one of .*bit\(1\)"):
        function.handler({"records": []}, Context())
