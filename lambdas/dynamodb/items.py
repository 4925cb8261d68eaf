"""Records → items in DynamoDB's own JSON.  (pure)

The table's key is the Redis key as a string. A key that is not UTF-8 is stored as ``base64:…``; so that no two keys
can meet, a key that itself begins with ``base64:`` or ``utf8:`` is stored with ``utf8:`` before it. With
``DYNAMO_DATABASE_IN_KEY`` the number of its database and a colon stand before all of that.
"""

from __future__ import annotations

import json
from typing import Any

from lambdas.contract import BASE64, Record
from lambdas.dynamodb.settings import DELETED_AT, Settings
from lambdas.dynamodb.values import AttributeValue, Digits, attributes_of, document_of, pairs_of, size_of

ITEM_BYTES_MAX = 400 * 1024
KEY_BYTES_MAX = 2_048
_KEY_PREFIXES = ("base64:", "utf8:")
_PLAIN_PLACE = {"stream": 0, "zset": 1}

Item = dict[str, AttributeValue]


class ItemError(ValueError):
    """This record can't become an item; the text says why."""


def table_key(record: Record, *, with_database: bool = False) -> str:
    """Return the record's key in the table; raise `ItemError` where DynamoDB would refuse it."""
    key = record.id
    if record.id_encoding == BASE64:
        key = "base64:" + key
    elif key.startswith(_KEY_PREFIXES):
        key = "utf8:" + key
    if with_database:
        key = f"{record.db}:{key}"
    if not key:
        raise ItemError("an empty key cannot be stored: DynamoDB refuses empty key attributes")
    if _bytes_in(key) > KEY_BYTES_MAX:
        raise ItemError(f"the key is longer than DynamoDB's {KEY_BYTES_MAX} bytes")
    return key


def item_of(key: str, record: Record, settings: Settings) -> Item:
    """Return the item of a record that has a body; raise `ItemError` if there can be none."""
    assert record.body is not None
    item: Item = {settings.key_attribute: {"S": key}}
    for name in settings.extra_attributes:
        value = getattr(record, name)
        item[name] = {"N": str(value)} if isinstance(value, int) else {"S": value}
    if record.expires_at_ms:
        # Rounded up: DynamoDB may not remove what Redis still has.
        item[settings.ttl_attribute] = {"N": str(-(-record.expires_at_ms // 1_000))}
    if settings.item_mode == "attributes":
        if record.type == "hash":
            return item | _attributes(record, settings)
    else:
        item["obj_name"] = {"S": record.obj_name}
        if settings.item_mode == "nested":
            item["body"] = _document(record, settings)
            return item
    item["body"] = {"S": record.body}
    if record.body_encoding:
        item["body_encoding"] = {"S": record.body_encoding}
    return item


def versioned_item_of(key: str, record: Record, settings: Settings, now_ms: int) -> Item:
    """Return the item with its version, or the tombstone of a key that is gone. ``now_ms`` is Unix time.

    Without a tombstone, an older value that comes late would bring the key back. Raises `ItemError` if there can be
    no item.
    """
    if record.version < 1:
        raise ItemError("the record has no version, and DYNAMO_WRITE_MODE is versioned")
    item: Item
    if record.body is None:
        item = {
            settings.key_attribute: {"S": key},
            DELETED_AT: {"N": str(now_ms)},
            settings.ttl_attribute: {"N": str(now_ms // 1_000 + settings.tombstone_ttl_s)},
        }
    else:
        item = item_of(key, record, settings)
    item[settings.version_attribute] = {"N": str(record.version)}
    return item


def checked_size(item: Item) -> int:
    """Return an item's size in bytes as DynamoDB counts it; raise `ItemError` if it is too large."""
    size = 0
    try:
        for name, value in item.items():
            # A short way for what most is: text in ASCII.
            text = value.get("S")
            size += len(name) if name.isascii() else _bytes_in(name)
            size += len(text) if text is not None and text.isascii() else size_of(value)
    except UnicodeEncodeError:
        raise ItemError("it holds text that is not Unicode") from None
    if size > ITEM_BYTES_MAX:
        raise ItemError(f"the item has {size} bytes, and DynamoDB takes {ITEM_BYTES_MAX}")
    return size


def _bytes_in(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ItemError("a name in it is not Unicode") from None


def _parsed_hash(record: Record) -> dict[str, Any]:
    fields = _parsed(record, json.loads)
    if not isinstance(fields, dict):
        raise ItemError("the body of a hash is not an object")
    return fields


def _attributes(record: Record, settings: Settings) -> Item:
    try:
        return attributes_of(_parsed_hash(record), record.body_encoding, settings.taken, settings.numbers)
    except ValueError as error:
        raise ItemError(str(error)) from None


def _document(record: Record, settings: Settings) -> AttributeValue:
    is_hash = record.type == "hash"
    # Numbers of a JSON text keep their digits: a float would lose some.
    value = _parsed_hash(record) if is_hash else _parsed(record, _loads_exactly)
    try:
        if record.type in _PLAIN_PLACE:
            return pairs_of(value, record.body_encoding, _PLAIN_PLACE[record.type])
        return document_of(value, record.body_encoding, numbers=is_hash and settings.numbers)
    except ValueError as error:
        raise ItemError(str(error)) from None


def _loads_exactly(text: str) -> Any:
    return json.loads(text, parse_int=Digits, parse_float=Digits, parse_constant=str)


def _parsed(record: Record, loads: Any) -> Any:
    try:
        return loads(record.body)
    except (ValueError, RecursionError) as error:
        raise ItemError(f"the body is not JSON: {error}") from None
