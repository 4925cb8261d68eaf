"""``BatchExecuteStatement`` with conditions, which moto's own PartiQL has not: by its PutItem and UpdateItem.

moto's parser fails on conditions, overwrites by INSERT, and copies the whole table for each statement. Here two kinds
of statements are understood, as `lambdas.dynamodb` makes them, with what DynamoDB answers to each (compared with
DynamoDB Local)::

    INSERT INTO "table" VALUE {'name': ?, …}
    UPDATE "table" SET "name"=? … REMOVE "name" … WHERE "key"=? AND (a condition)
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

_NAME = r'"((?:[^"]|"")+)"'
_INSERT = re.compile(rf"INSERT INTO {_NAME} VALUE \{{(.*)\}}", re.DOTALL)
_MEMBER = re.compile(r"'((?:[^']|'')+)': \?(?:, )?")
_UPDATE = re.compile(rf"UPDATE {_NAME} (.*) WHERE {_NAME}=\? AND (\(.*\))", re.DOTALL)
_CHANGE = re.compile(rf"(?:SET {_NAME}=\?|REMOVE {_NAME}) ?")
_IS_MISSING = re.compile(r"(#n\d+) IS MISSING")
_LITERAL = re.compile(r"'([^']*)'")
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
            elif match := _UPDATE.fullmatch(text):
                _update(backend, match, iter(parameters), statement.get("ReturnValuesOnConditionCheckFailure"))
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


def _update(backend: Any, match: re.Match[str], parameters: Iterator[dict[str, Any]], returned: str | None) -> None:
    names: dict[str, str] = {}
    values: dict[str, dict[str, Any]] = {}

    def name_of(name: str) -> str:
        placeholder = f"#n{len(names)}"
        names[placeholder] = _plain(name)
        return placeholder

    def value_of(value: dict[str, Any]) -> str:
        placeholder = f":v{len(values)}"
        values[placeholder] = value
        return placeholder

    if _plain(match[3]) != backend.get_table(_plain(match[1])).hash_key_attr:
        raise _invalid("Where clause does not contain a mandatory equality on all key attributes")
    changes = _CHANGE.findall(match[2])
    sets = [f"{name_of(name)} = {value_of(next(parameters))}" for name, _ in changes if name]
    removes = [name_of(name) for _, name in changes if name]
    key = next(parameters)
    condition = re.sub(_NAME, lambda found: name_of(found[1]), match[4])
    condition = _IS_MISSING.sub(r"attribute_not_exists(\1)", condition)
    condition = re.sub(r"\?", lambda found: value_of(next(parameters)), condition)
    condition = _LITERAL.sub(lambda found: value_of({"S": found[1]}), condition)
    expression = f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else "")
    backend.update_item(
        _plain(match[1]),
        {_plain(match[3]): key},
        expression,
        expression_attribute_names=names,
        expression_attribute_values=values,
        condition_expression=f"attribute_exists({name_of(match[3])}) AND {condition}",
        return_values_on_condition_check_failure=returned,
    )


def _plain(name: str) -> str:
    return name.replace('""', '"')


def _invalid(message: str) -> Exception:
    from moto.dynamodb.exceptions import MockValidationException

    invalid: Exception = MockValidationException(message)
    return invalid


def _error(code: str, message: str, item: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": message} | ({"Item": item} if item else {})}
