"""Versioned writes whose answers are lost, against a model of the table: what has been sent often enough is there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.contract import Deadline
from lambdas.dynamodb.calls import Write
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.versioned import VersionedWriter
from lambdas.repeats import TimeLeft

HEARD, UNHEARD, UNSENT, BROKEN = "heard", "unheard", "unsent", "broken"
KEYS = [f"k{n}" for n in range(30)]


class Table:
    """DynamoDB as far as versioned statements know it; ``script`` says what becomes of each call, and then all is well.

    An unheard call takes effect, an unsent one has none.
    """

    region = "eu-west-1"

    def __init__(self, versions: dict[str, int], script: list[str], rest: str = HEARD) -> None:
        self.versions = versions
        self.script = list(script)
        self.rest = rest
        self.kinds: dict[str, list[str]] = {}

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        fate = self.script.pop(0) if self.script else self.rest
        if fate == UNSENT:
            raise NoAnswer("refused", is_lost=False)
        responses = [self._execute(statement) for statement in json.loads(body)["Statements"]]
        if fate == UNHEARD:
            raise NoAnswer("timed out", is_lost=True)
        if fate == BROKEN:
            raise CallRefused("InternalServerError", "", 500)
        return {"Responses": responses}

    def _execute(self, statement: dict[str, Any]) -> dict[str, Any]:
        values, kind = statement["Parameters"], statement["Statement"].split()[0]
        if kind == "INSERT":
            key, version = values[0]["S"], int(values[1]["N"])
            error = "DuplicateItem" if key in self.versions else ""
        else:
            key, version = values[-2]["S"], int(values[-1]["N"])
            error = "" if self.versions.get(key, version) < version else "ConditionalCheckFailed"
        self.kinds.setdefault(key, []).append(kind)
        if not error:
            self.versions[key] = version
            return {}
        item = {"Item": {"id": {"S": key}}} if key in self.versions and kind == "UPDATE" else {}
        return {"Error": {"Code": error, **item}}


def writer_to(table: Table, attempts_max: int = 8) -> VersionedWriter:
    settings = Settings("table", write_mode="versioned", attempts_max=attempts_max, concurrency=1)
    return VersionedWriter(table, settings, sleep=lambda _: None)


def write(writer: VersionedWriter, keys: list[str], version: int) -> dict[str, str]:
    writes = [Write(key, {"id": {"S": key}, "version": {"N": str(version)}}, 10) for key in keys]
    return writer.write(writes, TimeLeft(lambda: 60_000, Deadline(), lambda: 0))


@pytest.mark.parametrize("before", [{}, {"k0": 1}])
def test_answers_that_are_never_heard(before: dict[str, int]) -> None:
    """Whether the item is there or not, one of two unheard attempts in a row is of the kind that takes effect."""
    table = Table(dict(before), [], UNHEARD)
    assert "k0" in write(writer_to(table, attempts_max=2), ["k0"], 5)
    assert table.versions == {"k0": 5}


@pytest.mark.parametrize("before", [{}, {"k0": 1}])
def test_one_attempt_an_invocation(before: dict[str, int]) -> None:
    """Where time is up after one attempt, the next invocation tries the other kind, however many keys are well."""
    table = Table(before | dict.fromkeys(KEYS[1:], 1), [])
    writer = writer_to(table, attempts_max=1)
    write(writer, KEYS[1:], 2)
    for version in (5, 6):
        table.rest = UNHEARD
        assert "k0" in write(writer, ["k0"], version)
        table.rest = HEARD
        assert write(writer, KEYS[1:], version) == {}
    assert table.versions["k0"] >= 5


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(1, 9)),
    st.lists(st.sampled_from([HEARD, UNHEARD, UNSENT, BROKEN]), max_size=12),
    st.lists(st.tuples(st.lists(st.sampled_from(KEYS), min_size=1, unique=True), st.integers(1, 9)), max_size=6),
)
def test_what_counts_as_written_is_there(
    before: dict[str, int], script: list[str], batches: list[tuple[list[str], int]]
) -> None:
    """Whatever is lost: a write that did not fail has left its version or a newer one, and no version goes back."""
    table = Table(dict(before), script)
    writer = writer_to(table, attempts_max=4)
    for keys, version in batches:
        known = dict(table.versions)
        failed = write(writer, keys, version)
        for key in keys:
            assert key in failed or table.versions[key] >= version
            assert table.versions.get(key, 0) >= known.get(key, 0)
    for keys, version in batches:
        table.script.clear()
        assert write(writer, keys, version) == {}
