"""What the archive's README says, held against what the function does."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.settings.file import load_settings
from lambdas.contract import Record
from lambdas.s3_archive.lines import line_of, objects_of
from lambdas.s3_archive.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "lambdas/s3_archive/README.md").read_text()
SETTINGS = Settings("amzn-s3-demo-bucket", "carts/")
DAY_MS = 1_763_856_000_000  # 2025-11-23T00:00:00Z


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", README, re.DOTALL)


def query(about: str) -> str:
    """Return the query that follows these words, as SQLite writes it, a year earlier."""
    (text,) = re.findall(rf"{re.escape(about)}[^`]*```sql\n(.*?)\n```", README, re.DOTALL)
    return str(text).replace("IS DISTINCT FROM", "IS NOT").replace("2026-", "2025-")


def content_of(key: str, body: str | None = "{}", at_ms: int = 0, version: int = 1, **more: Any) -> dict[str, Any]:
    """Return a line of that day, with its partition."""
    captured_at_ms = DAY_MS + at_ms
    one = Record("0", key, key, body, version=version, captured_at_ms=captured_at_ms, **more)
    line = line_of(one, SETTINGS, 0)
    content: dict[str, Any] = json.loads(line.data)
    return content | dict(re.findall(r"(\w+)=([^/]+)/", line.partition))


def test_the_tables_columns_are_the_lines() -> None:
    """The table has a column for everything that a line may hold, and no other."""
    columns, partitions = blocks("sql")[0].split("PARTITIONED BY")
    one = Record("0", "k", "k", '""', id_encoding="base64", body_encoding="base64", ordinal=1)
    line = line_of(one, SETTINGS, DAY_MS * 1_000)
    assert set(re.findall(r"`(\w+)`", columns)) == set(json.loads(line.data))
    assert re.findall(r"`(\w+)`", partitions) == re.findall(r"(\w+)=", line.partition)


def test_the_table_finds_the_objects() -> None:
    """The template, with a partition's values in it, is the folder of that partition's objects."""
    (template,) = re.findall(r"'storage.location.template' = '(.*?)'", README)
    line = line_of(Record("0", "k", "k", "{}", captured_at_ms=DAY_MS + 7 * 3_600_000), SETTINGS, 1)
    (one,) = objects_of([line], SETTINGS)
    folder = template.replace("${date}", "2025-11-23").replace("${hour}", "07")
    assert re.fullmatch(re.escape(folder) + r"\d+-1-[0-9a-f]{16}\.json\.gz", f"s3://{SETTINGS.bucket}/{one.name}")


def test_the_example_is_a_line() -> None:
    """The line that is shown is the one that its record makes."""
    (text,) = blocks("json")
    content = json.loads(text)
    at_ms = 1_795_454_123_456
    one = Record("0", "cart:7", "cart:7", content["value"], "hset", version=at_ms * 1_000 + 789, captured_at_ms=at_ms)
    assert line_of(one, SETTINGS, 0).data.decode() == text + "\n"


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    """Yield a table with the history of three carts, repeats among it."""
    raw = {"id_encoding": "base64"}
    contents = [
        content_of("a", '{"tea":"1"}', 1, 10),
        content_of("a", '{"tea":"1"}', 1, 10),
        content_of("a", '{"tea":"1"}', 2, 20, event="repair"),
        content_of("a", '{"tea":"2"}', 3, 30),
        content_of("a", None, 4, 40),
        content_of("b", '{"milk":"1"}', 5, 50),
        content_of("b", '{"milk":"2"}', 20 * 3_600_000, 60),
        content_of("b", '{"raw":"1"}', 6, 55, **raw),
        *(content_of("c", '["x","x"]', 7, 70, event="rpush", ordinal=number) for number in (0, 1, 1)),
    ]
    connection = sqlite3.connect(":memory:")
    names = [*re.findall(r"  `(\w+)`", blocks("sql")[0]), "date", "hour"]
    connection.execute(f"CREATE TABLE cart_history ({', '.join(names)})")
    rows = [[content.get(name) for name in names] for content in contents]
    connection.executemany(f"INSERT INTO cart_history VALUES ({', '.join('?' * len(names))})", rows)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


def test_the_query_without_repeats(table: sqlite3.Connection) -> None:
    """Each version of a key is there once, or each event of it; keys that look alike in two encodings stay two."""
    rows = table.execute(query("Without repeats")).fetchall()
    assert sorted(row["version"] for row in rows) == [10, 20, 30, 40, 50, 55, 60, 70, 70]


def test_the_query_of_changes(table: sqlite3.Connection) -> None:
    """A value that is told again, by a repeat or a scan, is no change; a delete is one."""
    rows = table.execute(query("Changes only")).fetchall()
    found = [(row["key"], row["value"]) for row in rows]
    expected = [("a", '{"tea":"1"}'), ("a", '{"tea":"2"}'), ("a", None), ("b", '{"milk":"1"}'), ("b", '{"milk":"2"}')]
    expected += [("b", '{"raw":"1"}'), ("c", '["x","x"]')]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_the_query_of_a_moment(table: sqlite3.Connection) -> None:
    """Each key has its newest value until then; what was deleted, or came later, is not there."""
    rows = table.execute(query("How every cart looked")).fetchall()
    assert [(row["key"], row["value"]) for row in rows] == [
        ("b", '{"milk":"1"}'),
        ("b", '{"raw":"1"}'),
        ("c", '["x","x"]'),
    ]


class Asked(Mapping[str, str]):
    """An environment that notes what it is asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        if name == "ARCHIVE_BUCKET":
            return "history"
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_variable_is_documented() -> None:
    """The table of variables names those that the function reads, with their defaults."""
    asked = Asked()
    settings = read_settings(asked)
    rows = re.findall(r"^\| (`ARCHIVE_[^|]+) \| ([^|]+) \|", README, re.MULTILINE)
    told = {
        name: value.strip("` ")
        for names, values in rows
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(","), strict=False)
    }
    assert set(told) == asked.names
    for name, value in told.items():
        held = getattr(settings, name.removeprefix("ARCHIVE_").lower())
        assert value == (str(held) if held not in {"", "history"} else "none"), name


def test_the_route_loads(tmp_path: Path) -> None:
    """The example of a route is one that the engine takes."""
    (text,) = blocks("toml")
    file = tmp_path / "engine.toml"
    file.write_text('[redis]\nurl = "redis://localhost:6379/0"\n' + text)
    (route,) = load_settings(str(file), {}, {}).routes
    assert (route.batch_size, route.maximum_batching_window_in_seconds) == (10_000, 60)
