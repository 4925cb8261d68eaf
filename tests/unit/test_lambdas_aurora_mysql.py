from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.config import DeliverySettings
from lambdas.aurora_mysql.mapping import TableMapping, mapping_of, read_mappings
from lambdas.aurora_mysql.settings import Settings, read_settings
from lambdas.aurora_mysql.values import KINDS, Column, Raw, ValueRefused
from lambdas.contract import SetupError
from lambdas.package import sources_of

ROOT = Path(__file__).parents[2]

MAPPING: dict[str, Any] = {
    "keys": ["cart:*"],
    "table": "carts",
    "key": {"column": "id", "prefix": "cart:"},
    "columns": {"owner": "text", "qty": {"column": "quantity", "type": "int"}},
}
ENVIRON = {
    "AURORA_HOST": "db.example",
    "AURORA_USER": "writer",
    "AURORA_PASSWORD": "pa55word",
    "AURORA_DATABASE": "shop",
    "AURORA_MAPPING": json.dumps(MAPPING),
}
BIN = "utf8mb4_bin"


def mapping(**more: Any) -> TableMapping:
    (read,) = read_mappings(json.dumps([MAPPING | more]))
    return read


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "raw", "column", "literal"),
    [
        ("text", "o'Brien\\ \n\r\0\x1a\"%", Column("c", "text"), "'o\\'Brien\\\\ \\n\\r\\0\\Z\"%'"),
        ("int", "-007", Column("c", "int"), "-7"),
        ("int", "+18446744073709551615", Column("c", "bigint"), "18446744073709551615"),
        ("decimal", "12.500", Column("c", "decimal", digits=1), "12.5"),
        ("decimal", "1e3", Column("c", "decimal"), "1000"),
        ("decimal", "-.5", Column("c", "decimal", digits=2), "-0.5"),
        ("float", "1.5", Column("c", "double"), "1.5e0"),
        ("float", "1e300", Column("c", "double"), "1e+300"),
        ("bool", "TRUE", Column("c", "tinyint"), "1"),
        ("bool", "off", Column("c", "tinyint"), "0"),
        ("datetime", "2026-01-31T23:30:00-01:00", Column("c", "datetime"), "'2026-02-01 00:30:00.000000'"),
        ("datetime", "2026-01-31", Column("c", "date"), "'2026-01-31'"),
        ("json", '{"a": 1}', Column("c", "json"), "'{\"a\": 1}'"),
        ("binary", b"\0\xff", Column("c", "blob"), "X'00ff'"),
        ("binary", "é", Column("c", "blob"), "X'c3a9'"),
    ],
)
def test_a_text_becomes_a_literal(kind: str, raw: Raw, column: Column, literal: str) -> None:
    """Each type is written so that the server can't read it as anything else."""
    assert KINDS[kind].literal(raw, column, "iso") == literal


@pytest.mark.parametrize(
    ("kind", "raw", "column"),
    [
        ("text", b"\xff", Column("c", "text")),
        ("text", "\ud800", Column("c", "text")),
        ("text", "abc", Column("c", "varchar", chars_max=2)),
        ("text", "a  ", Column("c", "varchar", chars_max=2)),
        ("text", "éé", Column("c", "tinytext", bytes_max=3)),
        ("text", "a ", Column("c", "char", chars_max=9)),
        ("int", "1.0", Column("c", "int")),
        ("int", "", Column("c", "int")),
        ("int", "٣", Column("c", "int")),
        ("int", "9" * 101, Column("c", "int")),
        ("decimal", "0.001", Column("c", "decimal", digits=2)),
        ("decimal", "NaN", Column("c", "decimal")),
        ("decimal", "1e999", Column("c", "decimal")),
        ("float", "inf", Column("c", "double")),
        ("float", "1e400", Column("c", "double")),
        ("float", "1_000", Column("c", "double")),
        ("bool", "2", Column("c", "tinyint")),
        ("datetime", "yesterday", Column("c", "datetime")),
        ("datetime", "2026-01-31T10:00:00.5", Column("c", "datetime", digits=0)),
        ("datetime", "2026-01-31T10:00:00.0000001", Column("c", "datetime", digits=6)),
        ("datetime", "2026-01-31T10:00:00", Column("c", "date")),
        ("json", "{", Column("c", "json")),
        ("json", "NaN", Column("c", "json")),
        ("json", "[" * 100_000, Column("c", "json")),
        ("binary", "abc", Column("c", "varbinary", bytes_max=2)),
        ("binary", "abc", Column("c", "binary", bytes_max=4)),
    ],
)
def test_what_a_column_cannot_hold_exactly_is_refused(kind: str, raw: Raw, column: Column) -> None:
    """Nothing is rounded, cut, filled up or guessed."""
    with pytest.raises(ValueRefused):
        KINDS[kind].literal(raw, column, "iso")


@pytest.mark.parametrize(
    ("style", "text", "literal"),
    [
        ("unix_s", "1763890010", "'2025-11-23 09:26:50.000000'"),
        ("unix_s", "1763890010.25", "'2025-11-23 09:26:50.250000'"),
        ("unix_ms", "1763890010123", "'2025-11-23 09:26:50.123000'"),
        ("unix_ms", "-1", "'1969-12-31 23:59:59.999000'"),
    ],
)
def test_a_unix_time_becomes_a_datetime(style: str, text: str, literal: str) -> None:
    """Seconds and milliseconds since 1970 are moments in UTC."""
    assert KINDS["datetime"].literal(text, Column("c", "datetime", digits=6), style) == literal


@pytest.mark.parametrize("text", ["1e99", "0.0000001", "1" * 26, "x", ""])
def test_what_is_no_unix_time_is_refused(text: str) -> None:
    """A number beyond the calendar, or finer than a microsecond, is none."""
    with pytest.raises(ValueRefused):
        KINDS["datetime"].literal(text, Column("c", "datetime", digits=6), "unix_s")


# --- the mapping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "takes", "leaves"),
    [
        ("cart:*", ["cart:", "cart:a\nb"], ["xcart:", "car"]),
        ("a?c", ["abc", "a\udcffc"], ["ac", "abbc"]),
        ("[^b-d]x", ["ax", "]x"], ["bx", "cx"]),
        ("[d-b\\]]", ["c", "]"], ["a", "-"]),
        (r"\*\?", ["*?"], ["ab"]),
        ("a[b", ["a[b"], ["ab"]),
        ("[]", [], ["", "[]"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_globs_are_those_of_redis(glob: str, takes: list[str], leaves: list[str]) -> None:
    """Stars, question marks, classes and backslashes mean what they mean in KEYS."""
    used = (mapping(keys=[glob]),)
    assert all(mapping_of(key, used) for key in takes)
    assert not any(mapping_of(key, used) for key in leaves)


def test_the_first_mapping_that_takes_a_key_has_it() -> None:
    """Mappings are asked in their order."""
    mappings = read_mappings(
        json.dumps([MAPPING | {"keys": ["a:*", "b:*"]}, MAPPING | {"keys": ["*"], "table": "rest"}])
    )
    assert [getattr(mapping_of(key, mappings), "table", None) for key in ("b:1", "c:1")] == ["carts", "rest"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"keys": []}, "AURORA_MAPPING[0].keys"),
        ({"keys": [1]}, "AURORA_MAPPING[0].keys"),
        ({"table": ""}, "table"),
        ({"table": "a`b"}, "not a valid name"),
        ({"key": {}}, "AURORA_MAPPING[0].key.column is missing"),
        ({"key": {"column": "id", "type": "float"}}, "allowed are text, binary, int"),
        ({"columns": {"a": "number"}}, 'columns["a"].type'),
        ({"columns": {"a": 1}}, "an object is expected"),
        ({"columns": {"a": {"type": "int", "nulable": True}}}, "'nulable', which is not a setting"),
        ({"columns": {"a": {"type": "int", "nullable": "no"}}}, "a value of type bool is expected"),
        ({"columns": {"a": "int", "b": {"column": "A", "type": "int"}}}, "uses the column A twice"),
        ({"columns": {"version": "int"}}, "uses the column version twice"),
        ({"colums": {}}, "'colums', which is not a setting"),
        ({"unknown_fields": "extra"}, "extra_column go together"),
        ({"unknown_fields": "keep"}, "allowed are ignore, extra, add, fail"),
        ({"added_columns_max": True}, "of type int"),
        ({"added_columns_max": 501}, "from 0 to 500"),
        ({"deletes": "never"}, "allowed are tombstone, delete"),
        ({"deleted_at_column": ""}, "deleted_at_column is empty"),
        ({"version_column": ""}, "version_column"),
    ],
)
def test_a_wrong_mapping_says_what_and_where(change: dict[str, Any], told: str) -> None:
    """Each error names the setting, so that the user need not search."""
    with pytest.raises(SetupError) as error:
        mapping(**change)
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '"x"', "null"])
def test_what_is_no_mapping(text: str) -> None:
    """A text that is no list of objects is a setup error."""
    with pytest.raises(SetupError, match="AURORA_MAPPING"):
        read_mappings(text)


def test_two_mappings_of_one_table() -> None:
    """Rows of two mappings could meet in one table, so they are refused."""
    with pytest.raises(SetupError, match="two mappings for the table carts"):
        read_mappings(json.dumps([MAPPING, MAPPING | {"table": "Carts"}]))


# --- settings -----------------------------------------------------------------------------------


def test_the_defaults() -> None:
    """What the README says is what a user gets."""
    settings = read_settings(ENVIRON)
    assert settings == Settings("db.example", "writer", "shop", read_mappings(json.dumps(MAPPING)), password="pa55word")
    assert "pa55word" not in repr(settings)
    assert settings.connect_timeout_ms + settings.read_timeout_ms < DeliverySettings().deadline_margin_ms


def test_the_readme_documents_every_variable() -> None:
    """Each variable that is read has its row, with its default, and no other is named."""
    text = (ROOT / "lambdas/aurora_mysql/README.md").read_text()
    source = (ROOT / "lambdas/aurora_mysql/settings.py").read_text()
    pattern = re.compile(r"AURORA_[A-Z_]+")
    assert set(pattern.findall(text)) == set(pattern.findall(source))


def test_a_mapping_from_a_file(tmp_path: Path) -> None:
    """A name that is relative is looked up in the function's zip."""
    (tmp_path / "mapping.json").write_text(json.dumps([MAPPING]))
    environ = ENVIRON | {"AURORA_MAPPING": "mapping.json", "LAMBDA_TASK_ROOT": str(tmp_path)}
    assert read_settings(environ).mappings[0].table == "carts"
    with pytest.raises(SetupError, match=r"nowhere\.json"):
        read_settings(environ | {"AURORA_MAPPING": "nowhere.json"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"AURORA_HOST": ""}, "AURORA_HOST"),
        ({"AURORA_USER": ""}, "AURORA_USER"),
        ({"AURORA_DATABASE": ""}, "AURORA_DATABASE"),
        ({"AURORA_MAPPING": ""}, "AURORA_MAPPING"),
        ({"AURORA_PORT": "x"}, "AURORA_PORT"),
        ({"AURORA_TLS": "maybe"}, "verify, required, off"),
        ({"AURORA_AUTH": "kerberos"}, "password, iam"),
        ({"AURORA_AUTH": "iam"}, "remove AURORA_PASSWORD"),
        ({"AURORA_SECRET": "arn"}, "both set"),
        ({"AURORA_BACKOFF_MS_MIN": "3000"}, "larger than"),
    ],
)
def test_wrong_variables(change: dict[str, str], told: str) -> None:
    """Each error names the variable and the remedy, and shows no password."""
    with pytest.raises(SetupError, match=told) as error:
        read_settings(ENVIRON | change)
    assert "pa55word" not in str(error.value)


def test_iam_never_without_tls() -> None:
    """A token is as good as a password, and is sent as it is."""
    environ = {name: value for name, value in ENVIRON.items() if name != "AURORA_PASSWORD"} | {"AURORA_AUTH": "iam"}
    assert read_settings(environ).auth == "iam"
    with pytest.raises(SetupError, match="AURORA_TLS is off"):
        read_settings(environ | {"AURORA_TLS": "off"})


# --- the zip ------------------------------------------------------------------------------------


def test_the_function_can_be_zipped_alone(tmp_path: Path) -> None:
    """With what its README packs, and the driver, the handler is imported and nothing of the engine is needed."""
    archive = tmp_path / "aurora_mysql.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for part in sources_of("aurora_mysql"):
            packed.write(part, part.relative_to(ROOT))
    code = (
        "import sys; sys.modules['engine'] = None; "
        f"sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]; sys.path.insert(0, {str(archive)!r}); "
        "import lambdas.aurora_mysql.handler as h; print(h.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(archive)), done.stderr
