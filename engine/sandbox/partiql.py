"""``BatchExecuteStatement`` with conditions, which moto's own PartiQL has not: by its conditions and its PutItem.

moto's parser fails on conditions, overwrites by INSERT, and copies the whole table for each statement. Here two kinds
of statements are understood, as `lambdas.dynamodb` makes them, with what DynamoDB answers to each (compared with
DynamoDB Local)::

    INSERT INTO "table" VALUE {'name': ?, …}
    UPDATE "table" SET "name"=? … REMOVE "name" … WHERE "key"=? AND (a condition)
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_NAME = r'"((?:[^"]|"")+)"'
_INSERT = re.compile(rf"INSERT INTO {_NAME} VALUE \{{(.*)\}}", re.DOTALL)
_MEMBER = re.compile(r"'((?:[^']|'')+)': \?(?:, )?")
_UPDATE = re.compile(rf"UPDATE {_NAME} (.*) WHERE {_NAME}=\? AND (\(.*\))", re.DOTALL)
_CHANGE = re.compile(rf"(?:SET {_NAME}=\?|REMOVE {_NAME}) ?")
_IS_MISSING = re.compile(r"(#n\d+) IS MISSING")
_LITERAL = re.compile(r"'([^']*)'")
STATEMENTS_MAX = 512
"""Texts that are known taken apart."""

_one_at_a_time = threading.Lock()
_CODES = {
    "ConditionalCheckFailedException": "ConditionalCheckFailed",
    "ResourceNotFoundException": "ResourceNotFound",
    "TransactionConflictException": "TransactionConflict",
    "ValidationException": "ValidationError",
}


def install() -> None:
    """Have moto's DynamoDB of this process understand them."""
    from moto.dynamodb.models import DynamoDBBackend

    setattr(DynamoDBBackend, "batch_execute_statement", batch_execute_statement)  # noqa: B010


def batch_execute_statement(backend: Any, statements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answer to each statement."""
    return [_answer(backend, statement) for statement in statements]


def _answer(backend: Any, statement: dict[str, Any]) -> dict[str, Any]:
    from moto.core.exceptions import ServiceException
    from moto.dynamodb.exceptions import DynamodbException

    text, parameters = statement["Statement"], statement["Parameters"]
    try:
        # moto itself looks first and then writes: two writers at once would both see the older item.
        with _one_at_a_time:
            if match := _INSERT.fullmatch(text):
                _insert(backend, _plain(match[1]), _MEMBER.findall(match[2]), parameters)
            elif update := _parsed(text):
                _update(backend, update, parameters, statement.get("ReturnValuesOnConditionCheckFailure"))
            else:
                return _error("ValidationError", f"Statement wasn't well formed, can't be processed: {text}")
    except (DynamodbException, ServiceException) as error:
        kind = str(getattr(error, "error_type", None) or error.code)
        code = _CODES.get(kind.rpartition("#")[2], "ValidationError")
        if text.startswith("INSERT") and code == "ConditionalCheckFailed":
            return _error("DuplicateItem", "Duplicate primary key exists in table")
        item = json.loads(getattr(error, "description", "{}")).get("Item") if code == "ConditionalCheckFailed" else None
        return _error(code, str(error.message), item)
    return {}


def _insert(backend: Any, table: str, names: list[str], parameters: list[dict[str, Any]]) -> None:
    item = {name.replace("''", "'"): value for name, value in zip(names, parameters, strict=True)}
    key = backend.get_table(table).hash_key_attr
    if not item.get(key, {}).get("S"):
        raise _invalid(f"The key attribute {key} is missing, no string, or empty")
    backend.put_item(
        table, item, condition_expression="attribute_not_exists(#k)", expression_attribute_names={"#k": key}
    )


@dataclass(frozen=True, slots=True)
class _Update:
    """An ``UPDATE``, taken apart: what it sets and removes, and its condition as moto's own parser reads it."""

    table: str
    key: str
    sets: tuple[str, ...]
    removes: tuple[str, ...]
    condition: str
    names: Mapping[str, str]
    literals: Mapping[str, dict[str, Any]]
    parameters: int
    """Of the condition: they are called ``:p0``, ``:p1`` …"""


@lru_cache(maxsize=STATEMENTS_MAX)
def _parsed(text: str) -> _Update | None:
    """Return what an ``UPDATE`` says; texts are few, for values are parameters."""
    match = _UPDATE.fullmatch(text)
    if match is None:
        return None
    names: dict[str, str] = {}
    literals: dict[str, dict[str, Any]] = {}

    def name_of(found: re.Match[str]) -> str:
        names[f"#n{len(names)}"] = _plain(found[1])
        return f"#n{len(names) - 1}"

    def literal_of(found: re.Match[str]) -> str:
        literals[f":l{len(literals)}"] = {"S": found[1]}
        return f":l{len(literals) - 1}"

    numbers = itertools.count()
    condition = re.sub(_NAME, name_of, match[4])
    condition = _IS_MISSING.sub(r"attribute_not_exists(\1)", condition)
    condition = re.sub(r"\?", lambda _: f":p{next(numbers)}", condition)
    condition = _LITERAL.sub(literal_of, condition)
    changes = _CHANGE.findall(match[2])
    return _Update(
        _plain(match[1]),
        _plain(match[3]),
        tuple(_plain(name) for name, _ in changes if name),
        tuple(_plain(name) for _, name in changes if name),
        condition,
        names,
        literals,
        next(numbers),
    )


def _update(backend: Any, update: _Update, parameters: Sequence[dict[str, Any]], returned: str | None) -> None:
    """Replace the item as a put does: moto's own update takes five times as long."""
    from moto.dynamodb.comparisons import create_condition_expression_parser
    from moto.dynamodb.exceptions import ConditionalCheckFailed, ItemSizeTooLarge, ItemSizeToUpdateTooLarge
    from moto.dynamodb.models.dynamo_type import DynamoType

    table = backend.get_table(update.table)
    if update.key != table.hash_key_attr:
        raise _invalid("Where clause does not contain a mandatory equality on all key attributes")
    if update.key in (*update.sets, *update.removes):
        raise _invalid(f"Cannot update attribute {update.key}. This attribute is part of the key")
    if len(parameters) != len(update.sets) + 1 + update.parameters:
        raise _invalid("Number of parameters in request and statement don't match.")
    values, key, asked = (
        parameters[: len(update.sets)],
        parameters[len(update.sets)],
        parameters[len(update.sets) + 1 :],
    )
    if set(key) != {table.hash_key_type}:
        raise _invalid("The provided key element does not match the schema")
    item = table.get_item(DynamoType(key), None)
    if item is None:
        raise ConditionalCheckFailed
    named = {f":p{number}": value for number, value in enumerate(asked)} | dict(update.literals)
    condition = create_condition_expression_parser(update.condition, dict(update.names), named).parse()
    if not condition.expr(item):
        raise ConditionalCheckFailed(item=item.to_json()["Attributes"] if returned == "ALL_OLD" else None)
    replaced = {*update.sets, *update.removes}
    content = {name: value.to_regular_json() for name, value in item.attrs.items() if name not in replaced}
    content.update(zip(update.sets, values, strict=True))
    try:
        table.put_item(content)
    except ItemSizeTooLarge:
        raise ItemSizeToUpdateTooLarge from None


def _plain(name: str) -> str:
    return name.replace('""', '"')


def _invalid(message: str) -> Exception:
    from moto.dynamodb.exceptions import MockValidationException

    invalid: Exception = MockValidationException(message)
    return invalid


def _error(code: str, message: str, item: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": message} | ({"Item": item} if item else {})}
