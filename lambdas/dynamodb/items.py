"""Records → write requests of DynamoDB.  (pure)

The table's key is the Redis key as a string. A key that is not UTF-8 is stored as ``base64:…``; so that no two keys
can meet, a key that itself begins with ``base64:`` or ``utf8:`` is stored with ``utf8:`` before it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from lambdas.contract import BASE64, Record
from lambdas.dynamodb.settings import Settings

ITEM_BYTES_MAX = 400 * 1024
KEY_BYTES_MAX = 2_048
FIELD_PREFIX = "field:"
_KEY_PREFIXES = ("base64:", "utf8:")

Request = dict[str, Any]


class ItemError(ValueError):
    """This record can't become an item; the text says why."""


def table_key(record: Record) -> str:
    """Return the record's key in the table; raise `ItemError` where DynamoDB would refuse it."""
    key = record.id
    if record.id_encoding == BASE64:
        key = "base64:" + key
    elif key.startswith(_KEY_PREFIXES):
        key = "utf8:" + key
    if not key:
        raise ItemError("an empty key cannot be stored: DynamoDB refuses empty key attributes")
    if len(key.encode()) > KEY_BYTES_MAX:
        raise ItemError(f"the key is longer than DynamoDB's {KEY_BYTES_MAX} bytes")
    return key


def request_of(key: str, record: Record, settings: Settings) -> tuple[Request, int]:
    """Return the record's write request and its size in bytes, about as DynamoDB counts it.

    Raises `ItemError` where it can't be an item.
    """
    key_value = {"S": key}
    if record.body is None:
        return {"DeleteRequest": {"Key": {settings.key_attribute: key_value}}}, len(key)
    item: dict[str, dict[str, Any]] = {settings.key_attribute: key_value}
    for name in settings.extra_attributes:
        value = getattr(record, name)
        item[name] = {"N": str(value)} if isinstance(value, int) else {"S": value}
    if settings.item_mode == "attributes" and record.type == "hash":
        item.update(_attributes(record, settings))
    else:
        if settings.item_mode == "body":
            item["obj_name"] = {"S": record.obj_name}
        item["body"] = {"S": record.body}
        if record.body_encoding:
            item["body_encoding"] = {"S": record.body_encoding}
    size = _size(item)
    if size > ITEM_BYTES_MAX:
        raise ItemError(f"the item has {size} bytes, and DynamoDB takes {ITEM_BYTES_MAX}")
    return {"PutRequest": {"Item": item}}, size


def _attributes(record: Record, settings: Settings) -> dict[str, dict[str, Any]]:
    """Return one attribute a field; a field whose name is taken gets ``field:`` before it, so none is lost."""
    assert record.body is not None
    try:
        fields = json.loads(record.body)
    except ValueError as error:
        raise ItemError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ItemError("the body of a hash is not an object")
    taken = {settings.key_attribute, *settings.extra_attributes}
    attributes: dict[str, dict[str, Any]] = {}
    for field, text in fields.items():
        name, value = (_decoded(field, text)) if record.body_encoding == BASE64 else (field, {"S": text})
        attributes[FIELD_PREFIX + name if name in taken or name.startswith(FIELD_PREFIX) else name] = value
    return attributes


def _decoded(field: str, text: str) -> tuple[str, dict[str, Any]]:
    """Return a field of a body in base64: text where it is UTF-8 after all, else binary."""
    raw = base64.b64decode(text)
    try:
        value: dict[str, Any] = {"S": raw.decode()}
    except UnicodeDecodeError:
        value = {"B": raw}
    try:
        return base64.b64decode(field).decode(), value
    except UnicodeDecodeError:
        return "base64:" + field, value


def _size(item: dict[str, dict[str, Any]]) -> int:
    total = 0
    for name, typed in item.items():
        (value,) = typed.values()
        total += len(name.encode()) + (len(value) if isinstance(value, bytes) else len(value.encode()))
    return total
