"""Versioned items as PartiQL: statements that take effect only where there is nothing newer.  (pure)

There is no upsert: ``UPDATE`` wants an item that is there, ``INSERT`` one that is not.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quoted

from lambdas.dynamodb.calls import text_of
from lambdas.dynamodb.items import Item
from lambdas.dynamodb.settings import BODY_ATTRIBUTES, DELETED_AT, Settings


class Statements:
    """Makes statements for one table. Their texts are few, and made once: values are parameters."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.key_attribute
        self._version = settings.version_attribute
        self._table = _quoted(settings.table)
        version = _quoted(self._version)
        # What is no number is no version: a field of a hash, from before writes were versioned.
        self._where = (
            f"WHERE {_quoted(self._key)}=? AND "
            f"({version} IS MISSING OR NOT attribute_type({version},'N') OR {version}<?)"
        )
        # What an item may have from before, as a tombstone, a key that expires, or in the other encoding.
        self._own = (DELETED_AT, settings.ttl_attribute, *BODY_ATTRIBUTES, *settings.extra_attributes)
        self._texts: dict[tuple[str, ...], tuple[str, str]] = {}

    def update(self, item: Item) -> str:
        """Return what replaces an older item, and nothing else, as JSON."""
        values = [text_of(value) for name, value in item.items() if name != self._key]
        parameters = ",".join([*values, text_of(item[self._key]), text_of(item[self._version])])
        # What it returns tells an item that is newer from none.
        return (
            f'{{"Statement":{self._texts_of(item)[0]},"Parameters":[{parameters}],'
            '"ReturnValuesOnConditionCheckFailure":"ALL_OLD"}'
        )

    def insert(self, item: Item) -> str:
        """Return what makes the item where there is none, as JSON."""
        parameters = ",".join([text_of(value) for value in item.values()])
        return f'{{"Statement":{self._texts_of(item)[1]},"Parameters":[{parameters}]}}'

    def _texts_of(self, item: Item) -> tuple[str, str]:
        names = tuple(item)
        texts = self._texts.get(names)
        if texts is None:
            changes = [f"SET {_quoted(name)}=?" for name in names if name != self._key]
            changes += [f"REMOVE {_quoted(name)}" for name in dict.fromkeys(self._own) if name not in item]
            update = f"UPDATE {self._table} {' '.join(changes)} {self._where}"
            members = ", ".join(f"'{_doubled(name, chr(39))}': ?" for name in names)
            insert = f"INSERT INTO {self._table} VALUE {{{members}}}"
            texts = self._texts[names] = (quoted(update), quoted(insert))
        return texts


def _quoted(name: str) -> str:
    return f'"{_doubled(name, chr(34))}"'


def _doubled(name: str, quote: str) -> str:
    return name.replace(quote, quote * 2)
