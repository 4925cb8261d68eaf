"""What keys are called in a table, by the function's own rule, and which keys stand under such names.  (pure)"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from engine.config import RouteSettings, Settings
from engine.delivery.reading.values import key_text
from engine.destination.base import parse_destination
from engine.redis.address import parse_url
from engine.routing.databases import databases_of, inside, named
from lambdas.contract import Record
from lambdas.dynamodb.items import ItemError, table_key


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """The names of one route's keys.

    ``only`` is the database of all keys that the engine captures, None where each key says its own. Where names don't
    tell it (``in_key``), they are all of ``implied``.
    """

    only: int | None = 0
    implied: int = 0
    in_key: bool = False

    def name_of(self, key: bytes) -> str:
        """Return what a key is called in the table; raise `ItemError` where it can't be stored."""
        database, name = named(self.only, key)
        text, encoding = key_text(name)
        record = Record("", text, text, None, db=database, id_encoding=encoding)
        return table_key(record, with_database=self.in_key)

    def name_or_none(self, key: bytes) -> str | None:
        """Return what a key is called in the table, None where it can't be stored."""
        try:
            return self.name_of(key)
        except ItemError:
            return None

    def key_of(self, text: str) -> bytes | None:
        """Return the key that is stored under this name, None where none is that the engine captures."""
        database, rest = self.implied, text
        if self.in_key:
            number, _, rest = text.partition(":")
            if not (number.isascii() and number.isdigit()):
                return None
            database = int(number)
        if self.only not in {None, database}:
            return None
        try:
            name = (
                base64.b64decode(rest.removeprefix("base64:"), validate=True)
                if rest.startswith("base64:")
                else rest.removeprefix("utf8:").encode()
            )
            key = name if self.only is not None else inside(database, name)
            return key if self.name_of(key) == text else None
        except ValueError:
            # No base64, no UTF-8, or nothing that can be stored.
            return None


def stored_keys(route: RouteSettings, settings: Settings) -> StoredKeys:
    """Return how the keys of a route, as it is inside, are called in its destination."""
    only = databases_of(settings.redis, parse_url(settings.redis.url).database).only
    implied = only if only is not None else route.databases[0]
    return StoredKeys(only, implied, parse_destination(route.destination).database_in_key)
