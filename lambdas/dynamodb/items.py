"""Records → write requests of DynamoDB.  (pure)

The table's key is the Redis key as a string. A key that is not UTF-8 is stored as ``base64:…``; so that no two keys
can meet, a key that itself begins with ``base64:`` or ``utf8:`` is stored with ``utf8:`` before it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from lambdas.contract import BASE64, Record
from lambdas.dynamodb.settings import DELETED_AT, EXPIRES_AT, Settings

ITEM_BYTES_MAX = 400 * 1024
KEY_BYTES_MAX = 2_048
FIELD_PREFIX = "field:"
_KEY_PREFIXES = ("base64:", "utf8:")

# What is no number is no version: a field of a hash, from before writes were versioned.
_IS_NEWER = "attribute_not_exists(#v) OR NOT attribute_type(#v, :number) OR #v < :v"

Request = dict[str, Any]
Item = dict[str, dict[str, Any]]


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
    """Return the record's part of a ``BatchWriteItem`` and its size in bytes, about as DynamoDB counts it.

    Raises `ItemError` where it can't be an item.
    """
    if record.body is None:
        return {"DeleteRequest": {"Key": {settings.key_attribute: {"S": key}}}}, len(key)
    item = _item(key, record, settings)
    return {"PutRequest": {"Item": item}}, _checked_size(item)


def versioned_request_of(key: str, record: Record, settings: Settings, now_ms: int) -> tuple[Request, int]:
    """Return the record's ``PutItem``, which takes effect only on an older version, and its size in bytes.

    A key that is gone leaves a tombstone, or an older value that comes late would bring it back. ``now_ms`` is Unix
    time. Raises `ItemError` where it can't be an item.
    """
    if record.version < 1:
        raise ItemError("the record has no version, and DYNAMO_WRITE_MODE is versioned")
    version = {"N": str(record.version)}
    if record.body is None:
        item: Item = {settings.key_attribute: {"S": key}}
        item[DELETED_AT] = {"N": str(now_ms)}
        item[EXPIRES_AT] = {"N": str(now_ms // 1_000 + settings.tombstone_ttl_s)}
    else:
        item = _item(key, record, settings)
    item[settings.version_attribute] = version
    request = {
        "TableName": settings.table,
        "Item": item,
        "ConditionExpression": _IS_NEWER,
        "ExpressionAttributeNames": {"#v": settings.version_attribute},
        "ExpressionAttributeValues": {":v": version, ":number": {"S": "N"}},
    }
    return request, _checked_size(item)


def _item(key: str, record: Record, settings: Settings) -> Item:
    item: Item = {settings.key_attribute: {"S": key}}
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
    return item


def _attributes(record: Record, settings: Settings) -> Item:
    """Return one attribute a field; a field whose name is taken gets ``field:`` before it, so none is lost."""
    assert record.body is not None
    try:
        fields = json.loads(record.body)
    except ValueError as error:
        raise ItemError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ItemError("the body of a hash is not an object")
    taken = settings.taken
    attributes: Item = {}
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


def _checked_size(item: Item) -> int:
    size = 0
    for name, typed in item.items():
        (value,) = typed.values()
        size += len(name.encode()) + (len(value) if isinstance(value, bytes) else len(value.encode()))
    if size > ITEM_BYTES_MAX:
        raise ItemError(f"the item has {size} bytes, and DynamoDB takes {ITEM_BYTES_MAX}")
    return size
