from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from lambdas.aurora_mysql import handler as function
from lambdas.contract import SetupError
from tests.aurora_carts import CARTS, Context, SetUp, cart, invoke, new_containers, record
from tests.mariadb import MariaDB, mariadb_server, needs_mariadb

pytestmark = needs_mariadb


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    with mariadb_server() as running:
        yield running


@pytest.fixture
def set_up(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    with new_containers(server, monkeypatch) as apply:
        yield apply


def test_a_hash_becomes_a_row(server: MariaDB, set_up: SetUp) -> None:
    """Fields go to their columns with their types; one that is missing is NULL, one that nobody named is ignored."""
    owner = "o'Bri\\en \"\n\0\x1a🙂%s"
    assert invoke(record(0, "cart:7", {"owner": owner, "qty": "-3", "total": "12.30", "colour": "red"}, 5)) == []
    assert cart(server, "7") == (owner, -3, Decimal("12.30"), 5)
    assert invoke(record(0, "cart:7", {"qty": "4"}, 6)) == []
    assert cart(server, "7") == (None, 4, None, 6)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_newer_version_stays_in_either_order(server: MariaDB, set_up: SetUp, order: tuple[int, int]) -> None:
    """Whichever of two invocations comes last, the row holds the newer value, whole; both are told as written."""
    for version in order:
        assert invoke(record(0, "cart:1", {"owner": f"of {version}", "qty": str(version)}, version)) == []
    assert cart(server, "1") == ("of 2", 2, None, 2)


def test_a_row_without_a_version_is_older_than_all(server: MariaDB, set_up: SetUp) -> None:
    """What was in the table before the function came is replaced."""
    server.execute("INSERT INTO carts (cart_id, owner) VALUES ('old', 'nobody')")
    assert invoke(record(0, "cart:old", {"owner": "somebody"}, 1)) == []
    assert cart(server, "old", "owner, version") == ("somebody", 1)


def test_the_newest_of_a_keys_records_stands_for_all(server: MariaDB, set_up: SetUp) -> None:
    """A batch may hold a key twice, in any order; where its newest fails, all of them fail."""
    assert invoke(record(0, "cart:2", {"qty": "2"}, 2), record(1, "cart:2", {"qty": "1"}, 1)) == []
    assert cart(server, "2", "quantity, version") == (2, 2)
    assert sorted(invoke(record(0, "cart:2", {"qty": "x"}, 4), record(1, "cart:2", {"qty": "3"}, 3))) == ["0", "1"]


def test_no_older_value_resurrects_a_deleted_row(server: MariaDB, set_up: SetUp) -> None:
    """A tombstone stays until a newer value comes; a delete that is late removes nothing."""
    assert invoke(record(0, "cart:3", {"owner": "a"}, 10)) == []
    assert invoke(record(0, "cart:3", None, 20), record(1, "cart:never", None, 20)) == []
    assert cart(server, "3", "owner, deleted_at IS NULL, version") == (None, 0, 20)
    assert invoke(record(0, "cart:3", {"owner": "late"}, 15), record(1, "cart:never", {"owner": "late"}, 15)) == []
    assert cart(server, "3", "owner, deleted_at IS NULL") == (None, 0)
    assert cart(server, "never", "owner, deleted_at IS NULL") == (None, 0)
    assert invoke(record(0, "cart:3", {"owner": "new"}, 30), record(1, "cart:never", None, 5)) == []
    assert cart(server, "3", "owner, deleted_at IS NULL, version") == ("new", 1, 30)


def test_a_real_delete_takes_older_rows_only(server: MariaDB, set_up: SetUp) -> None:
    """Where the mapping wants it the row is gone, unless it is newer; many go in one statement."""
    set_up(CARTS | {"deletes": "delete"})
    assert invoke(*(record(n, f"cart:{n}", {"owner": "a"}, 10) for n in range(1_000))) == []
    before = server.status("Com_delete")
    assert invoke(*(record(n, f"cart:{n}", None, 10 if n == 500 else 11) for n in range(1_000))) == []
    assert server.status("Com_delete") - before == 2
    assert server.execute("SELECT cart_id FROM carts") == [("500",)]


def test_a_thousand_rows_take_two_statements(server: MariaDB, set_up: SetUp) -> None:
    """A batch of 1,000 records is written 500 rows at a time; the bound in bytes cuts it too."""
    before = server.status("Com_insert")
    assert invoke(*(record(n, f"cart:{n}", {"owner": "a", "qty": "1"}) for n in range(1_000))) == []
    assert server.execute("SELECT COUNT(*) FROM carts") == [(1_000,)]
    assert server.status("Com_insert") - before == 2
    set_up(AURORA_STATEMENT_BYTES_MAX="8192", AURORA_STATEMENT_ROWS_MAX="10000")
    before = server.status("Com_insert")
    assert invoke(*(record(n, f"cart:{n}", {"owner": "b", "qty": "1"}, 2) for n in range(1_000))) == []
    assert 3 <= server.status("Com_insert") - before <= 10
    assert server.execute("SELECT COUNT(*) FROM carts WHERE owner = 'b'") == [(1_000,)]


def test_poisoned_records_fail_alone(server: MariaDB, set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    """What the function, or only the server, finds wrong fails with its reason; all 490 neighbours are written."""
    records = [record(n, f"cart:{n}", {"owner": "a"}) for n in range(500)]
    poison: dict[int, tuple[dict[str, Any], str]] = {
        0: (record(0, "cart:0", {"owner": "x" * 21}), "characters"),
        7: (record(7, "cart:7", {"qty": "99999999999"}), "Out of range value for column 'quantity'"),
        8: (record(8, "cart:8", {"qty": "many"}), "not a whole number"),
        99: (record(99, "cart:99", {"total": "1.005"}), "3 digits after the point"),
        100: (record(100, "other:1", {}), "no mapping"),
        101: (record(101, "cart:101", {}, type="string", body='"x"'), "takes only hashes"),
        250: (record(250, "cart:250", {}, 0), "no version"),
        251: (record(251, "cart:" + "k" * 65, {}), "longer than the 64"),
        252: (record(252, "Y2FydDr/", {}, id_encoding="base64"), "not UTF-8"),
        499: (record(499, "cart:499", {"total": "123456789"}), "Out of range value for column 'total'"),
    }
    for number, (poisoned, _) in poison.items():
        records[number] = poisoned
    assert sorted(invoke(*records), key=int) == [str(number) for number in sorted(poison)]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reasons = {int(line["record_id"]): line["reason"] for line in lines}
    for number, (_, reason) in poison.items():
        assert reason in reasons[number]
    assert server.execute("SELECT COUNT(*), SUM(owner = 'a') FROM carts") == [(490, 490)]


def test_a_row_larger_than_the_servers_packet_fails_alone(server: MariaDB, set_up: SetUp) -> None:
    """A record that no statement can hold fails; the connection and its neighbours don't."""
    server.execute("ALTER TABLE carts MODIFY owner LONGTEXT NULL")
    server.execute("SET GLOBAL max_allowed_packet = 65536")
    set_up()
    try:
        records = [record(0, "cart:0", {"owner": "a"}), record(1, "cart:1", {"owner": "x" * 65_536})]
        records += [record(n, f"cart:{n}", {"owner": "y" * 60_000}) for n in range(2, 5)]
        assert invoke(*records) == ["1"]
        assert server.execute("SELECT COUNT(*) FROM carts") == [(4,)]
    finally:
        server.execute("SET GLOBAL max_allowed_packet = 16777216")


def test_after_its_deadline_a_batch_is_not_written(server: MariaDB, set_up: SetUp) -> None:
    """An invocation that comes late writes nothing and reports everything; one in time writes."""
    now_ms = time.time_ns() // 1_000_000
    assert invoke(record(0, "cart:due", {}), deadline_ms=now_ms - 1) == ["0"]
    assert cart(server, "due") is None
    assert invoke(record(0, "cart:due", {}), deadline_ms=now_ms + 60_000) == []
    assert cart(server, "due") is not None


def test_the_originals_payload(server: MariaDB, set_up: SetUp) -> None:
    """One record an invocation is written, the later one stays; what can't be written is an error."""
    for qty in ("1", "2"):
        event = {"id": "cart:9", "obj_name": "cart:9", "body": json.dumps({"qty": qty})}
        assert function.handler(event, Context()) == {"batchItemFailures": []}
    assert cart(server, "9", "quantity") == (2,)
    with pytest.raises(RuntimeError, match="not a whole number"):
        function.handler({"id": "cart:9", "obj_name": "cart:9", "body": '{"qty":"x"}'}, Context())


TYPES: dict[str, Any] = {
    "keys": ["t:*"],
    "table": "types",
    "key": {"column": "k", "type": "binary"},
    "columns": {
        "t": "text",
        "i": {"type": "int", "nullable": False, "default": 7},
        "f": "float",
        "b": "bool",
        "at": "datetime",
        "ms": {"type": "datetime", "format": "unix_ms"},
        "j": "json",
        "raw": {"type": "binary", "nullable": False},
    },
    "unknown_fields": "extra",
    "extra_column": "extra",
    "body_column": "body",
    "missing_columns": "add",
}
CREATE_TYPES = "CREATE OR REPLACE TABLE types (k VARBINARY(64) PRIMARY KEY)"


def test_every_type_and_columns_that_are_added(server: MariaDB, set_up: SetUp) -> None:
    """Mapped columns that are missing are added; each value comes out as it went in, what is left over in `extra`."""
    server.execute(CREATE_TYPES)
    set_up(TYPES)
    fields = {"t": "té", "f": "1e3", "b": "Yes", "at": "2026-11-23T10:00:00.25+02:00", "ms": "1763890010123"}
    fields |= {"j": '{"a":[1]}', "raw": "r", "colour": "red", "née": ""}
    assert invoke(record(0, "t:1", fields)) == []
    columns = "t, i, f, b, CAST(at AS CHAR), CAST(ms AS CHAR), j, raw, extra, body"
    (row,) = server.execute(f"SELECT {columns} FROM types WHERE k = 't:1'")
    times = ("2026-11-23 08:00:00.250000", "2025-11-23 09:26:50.123000")
    assert row == ("té", 7, 1000.0, 1, *times, '{"a":[1]}', b"r", '{"colour":"red","née":""}', None)


def test_bytes_that_are_not_utf8(server: MariaDB, set_up: SetUp) -> None:
    """A key and a value of any bytes are stored in binary columns; elsewhere such a value fails alone."""
    server.execute(CREATE_TYPES)
    set_up(TYPES)
    raw = {"cmF3": "AP8=", "dA==": "dGV4dA=="}  # raw: 00 ff, t: text
    bad = {"cmF3": "AA==", "dA==": "/w=="}
    fine = record(0, "dDr/", raw, id_encoding="base64", body_encoding="base64")
    assert invoke(fine, record(1, "t:2", bad, body_encoding="base64"), record(2, "t:3", {"raw": ""})) == ["1"]
    assert server.execute("SELECT k, raw, t FROM types ORDER BY k") == [
        (b"t:3", b"", None),
        (b"t:\xff", b"\0\xff", "text"),
    ]


def test_other_types_and_tombstones_of_columns_that_are_not_null(server: MariaDB, set_up: SetUp) -> None:
    """A value of another type goes to the body column whole, and a deleted key leaves defaults; both are replaced."""
    server.execute(CREATE_TYPES)
    set_up(TYPES)
    invoke(record(0, "t:1", {"raw": "r"}, 1))
    server.execute("ALTER TABLE types MODIFY raw LONGBLOB NOT NULL, MODIFY i BIGINT NOT NULL")
    set_up(TYPES)
    assert invoke(record(0, "t:1", None, 2, type="list", body='["a"]'), record(1, "t:2", None, 2)) == []
    query = "SELECT i, raw, body, deleted_at IS NULL FROM types ORDER BY k"
    assert server.execute(query) == [(7, b"", '["a"]', 1), (7, b"", None, 0)]
    assert invoke(record(0, "t:1", {"raw": "r"}, 3), record(1, "t:2", {"i": "1"}, 3)) == ["1"]
    assert server.execute(query)[0] == (7, b"r", None, 1)


def test_fields_that_nobody_named_get_columns(server: MariaDB, set_up: SetUp) -> None:
    """Each such field becomes a column, up to the bound; a record with one too many, or a bad name, fails alone."""
    set_up(CARTS | {"unknown_fields": "add", "added_columns_max": 2})
    first = [record(0, "cart:1", {"colour": "red", "qty": "1"}), record(1, "cart:2", {"bad name": "x"})]
    assert invoke(*first, record(2, "cart:3", {"owner": "a"}), record(3, "cart:4", {"VERSION": "9"})) == ["1", "3"]
    assert cart(server, "1", "quantity, colour") == (1, "red")
    assert invoke(record(0, "cart:1", {"size": "L"}, 2), record(1, "cart:5", {"weight": "1"}, 2)) == ["1"]
    assert cart(server, "1", "colour, size") == (None, "L")


def test_a_column_added_by_another_container_is_emptied(server: MariaDB, set_up: SetUp) -> None:
    """A container that wrote before the column was there does not leave an older value in it."""
    adding = CARTS | {"unknown_fields": "add"}
    set_up(adding)
    invoke(record(0, "cart:1", {"qty": "1"}, 1))
    long_running = function._writer(), function._settings()
    set_up(adding)
    invoke(record(0, "cart:1", {"colour": "red"}, 2))
    writer, settings = long_running
    left = function.TimeLeft(Context().get_remaining_time_in_millis, function.contract.Deadline(), function.now_ms)
    (newer,), _ = function.contract.records_of({"records": [record(0, "cart:1", {"qty": "3"}, 3)]})
    assert function.write(settings, writer, [newer], left) == {}
    assert cart(server, "1", "quantity, colour, version") == (3, None, 3)


@pytest.mark.parametrize(
    ("change", "mapping", "told"),
    [
        ("DROP TABLE carts", {}, "CREATE TABLE `carts`"),
        ("ALTER TABLE carts DROP COLUMN owner", {}, "ALTER TABLE `carts` ADD COLUMN `owner` TEXT NULL"),
        ("ALTER TABLE carts DROP PRIMARY KEY", {}, "primary key"),
        ("ALTER TABLE carts MODIFY cart_id VARCHAR(64) COLLATE utf8mb4_general_ci", {}, "utf8mb4_bin"),
        ("ALTER TABLE carts ADD UNIQUE (owner)", {}, "the unique index on owner"),
        ("ALTER TABLE carts MODIFY version INT", {}, "bigint"),
        ("ALTER TABLE carts MODIFY quantity VARCHAR(9)", {}, "its type is varchar, and int needs one of"),
        ("ALTER TABLE carts MODIFY quantity INT NOT NULL", {}, "it is NOT NULL"),
        ("ALTER TABLE carts DROP COLUMN deleted_at", {}, "ADD COLUMN `deleted_at` DATETIME(3) NULL"),
        ("ALTER TABLE carts ADD needed INT NOT NULL", {}, "'needed' doesn't have a default value"),
        ("SELECT 1", {"columns": {"qty": {"column": "quantity", "type": "int", "default": "x"}}}, "default can't be"),
    ],
)
def test_a_table_that_does_not_fit_is_one_clear_error(
    server: MariaDB, set_up: SetUp, change: str, mapping: dict[str, Any], told: str
) -> None:
    """The empty batch raises `SetupError` with what to do; a batch writes nothing and says the same."""
    server.execute(change)
    set_up(CARTS | mapping)
    with pytest.raises(SetupError) as asked:
        invoke()
    with pytest.raises(SetupError) as written:
        invoke(record(0, "cart:1", {"owner": "a"}))
    for error in (asked, written):
        assert told in str(error.value)
        assert "carts" in str(error.value) or "needed" in str(error.value)


def test_an_empty_batch_changes_nothing(server: MariaDB, set_up: SetUp) -> None:
    """The engine's question leaves no row behind, and adds no column."""
    set_up(CARTS | {"missing_columns": "add", "columns": CARTS["columns"] | {"new": "text"}})
    assert invoke() == []
    assert server.execute("SELECT COUNT(*) FROM carts") == [(0,)]
    columns = "SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_NAME = 'carts' AND COLUMN_NAME = 'new'"
    assert server.execute(columns) == [(0,)]


def test_a_missing_right_is_one_clear_error(server: MariaDB, set_up: SetUp) -> None:
    """A user who may insert and not update is told so at the start, with what to grant."""
    server.execute(
        "CREATE OR REPLACE USER half@'%' IDENTIFIED BY 'h'", "GRANT INSERT, SELECT ON ingest.carts TO half@'%'"
    )
    set_up(AURORA_USER="half", AURORA_PASSWORD="h")
    with pytest.raises(
        SetupError, match=r"UPDATE command denied to user 'half'.*grant the user INSERT, UPDATE and SELECT"
    ):
        invoke()
    with pytest.raises(SetupError, match="grant"):
        invoke(record(0, "cart:1", {}))
    server.execute("GRANT UPDATE ON ingest.carts TO half@'%'")
    assert invoke() == []


def test_a_table_that_is_missing_fails_no_other(
    server: MariaDB, set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch for two tables, the records of the one that is there are written."""
    gone = CARTS | {"keys": ["gone:*"], "table": "gone", "key": {"column": "id"}}
    monkeypatch.setenv("AURORA_MAPPING", json.dumps([CARTS, gone]))
    function._settings.cache_clear()
    function._writer.cache_clear()
    assert invoke(record(0, "cart:1", {"owner": "a"}), record(1, "gone:1", {})) == ["1"]
    assert cart(server, "1", "owner") == ("a",)
    with pytest.raises(SetupError, match="CREATE TABLE `gone`"):
        invoke()


def test_a_column_dropped_under_a_warm_container(server: MariaDB, set_up: SetUp) -> None:
    """It is told, and mended without a new container."""
    assert invoke(record(0, "cart:1", {"owner": "a"}, 1)) == []
    server.execute("ALTER TABLE carts DROP COLUMN owner")
    with pytest.raises(SetupError, match="owner"):
        invoke(record(0, "cart:1", {"owner": "b"}, 2))
    server.execute("ALTER TABLE carts ADD COLUMN owner TEXT NULL")
    assert invoke(record(0, "cart:1", {"owner": "c"}, 3)) == []
    assert cart(server, "1", "owner") == ("c",)
