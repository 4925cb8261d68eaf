"""The names of keys in a table, by the function's own rule, and the keys that such names stand for.  (pure)"""

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

    ``only`` is the database of all keys that the engine captures, None if each key names its own. If names don't
    include it (``in_key``), they are all in ``implied``.
    """

    only: int | None = 0
    implied: int = 0
    in_key: bool = False

    def name_of(self, key: bytes) -> str:
        """Return a key's name in the table; raise `ItemError` if it can't be stored."""
        database, name = named(self.only, key)
        text, encoding = key_text(name)
        record = Record("", text, text, None, db=database, id_encoding=encoding)
        return table_key(record, with_database=self.in_key)

    def name_or_none(self, key: bytes) -> str | None:
        """Return a key's name in the table, None if it can't be stored."""
        try:
            return self.name_of(key)
        except ItemError:
            return None

    def key_of(self, text: str) -> bytes | None:
        """Return the key that is stored under this name, None if it is not one that the engine captures."""
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
            # Not base64, not UTF-8, or not something that can be stored.
            return None


def stored_keys(route: RouteSettings, settings: Settings) -> StoredKeys:
    """Return the names of a route's keys in its destination; the route is in its internal form."""
    only = databases_of(settings.redis, parse_url(settings.redis.url).database).only
    implied = only if only is not None else route.databases[0]
    return StoredKeys(only, implied, parse_destination(route.destination).database_in_key)
