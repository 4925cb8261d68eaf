"""The Redis side of an audit: a scan, reads, questions whether keys exist, and marks for the engine that listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hiredis

from engine.audit.deletions import ServerFacts, facts_of
from engine.capture.watch.keepsake import KEY as KEEPSAKE
from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetched, Fetcher
from engine.errors import RedisRefused
from engine.marks.marker import Marker
from engine.marks.standing import Standing
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.redis.eviction import QUESTIONS, may_evict
from engine.routing.byte_classes import channel_prefix

SCAN_COUNT = 500
BODY_CHARS_MAX = 16 * 1024 * 1024
"""Of values that are read at once; one more pipeline may come on top."""

_MODULE_TYPES = {"json": "ReJSON-RL"}


class Server:
    """One server and database. Not thread-safe; raises `RedisError`."""

    def __init__(self, redis: RedisSettings, database: int, name: str) -> None:
        self._prefix = channel_prefix(database)
        self._database = database
        self._fetcher = Fetcher(redis, database, f"{name}-reads")
        self._connection = RespConnection.open(redis, name=name, protocol=2, database=database)
        if self._connection.facts.get("mode") == "cluster":
            self.close()
            raise RedisRefused(
                f"{self._connection.address} is a cluster node, which holds a part of the keys only",
                hint="this version compares servers without cluster mode",
            )

    def close(self) -> None:
        """Close both connections."""
        self._fetcher.close()
        self._connection.close()

    def count(self) -> int:
        """Return how many keys the database holds."""
        return int(self._call("count its keys", "DBSIZE"))

    def may_evict(self) -> bool:
        """Tell whether the server evicts keys, or did."""
        # Where INFO is refused, nothing is known.
        return may_evict(self._connection.pipeline(b"".join(QUESTIONS), len(QUESTIONS)))

    def dataset(self) -> ServerFacts:
        """Return which dataset the server holds, as far as it tells."""
        parts = [self._connection.call("INFO", section) for section in ("server", "persistence", "replication")]
        return facts_of(b"\n".join(part for part in parts if isinstance(part, bytes)))

    def scan(self, type_name: str = "") -> Iterator[list[bytes]]:
        """Yield every key that is there all the time, at least once, in small lists; of one type where it is given."""
        of_type = ("TYPE", _MODULE_TYPES.get(type_name, type_name)) if type_name else ()
        cursor = b"0"
        while True:
            cursor, keys = self._call("scan its keys", "SCAN", cursor, "COUNT", SCAN_COUNT, *of_type)
            yield [key for key in keys if key != KEEPSAKE]
            if cursor == b"0":
                return

    def read(self, keys: Sequence[bytes], event: str) -> Iterator[list[Fetched]]:
        """Yield the values of the keys in their order, in bounded lists; ``event`` hints at their type."""
        pending = [(key, event) for key in keys]
        while pending:
            values = self._fetcher.fetch(pending, BODY_CHARS_MAX)
            yield values
            pending = pending[len(values) :]

    def absent(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of the keys that are not there."""
        replies = self._pipeline("tell whether keys exist", [pack("EXISTS", key) for key in keys])
        return [key for key, reply in zip(keys, replies, strict=True) if not reply]

    def marker(self, standing: Callable[[], Standing | None]) -> Marker:
        """Return what marks keys in the engine that runs here, and sees to it that no mark is lost."""
        return Marker(self._connection, self._database, standing)

    def mark(self, keys: Sequence[bytes], event: str) -> int:
        """Mark these keys in the engine that listens; return how many marks nobody received.

        Whoever loses one has a gap, and has to see to what it held by himself.
        """
        commands = [pack("PUBLISH", self._prefix + key, event) for key in keys]
        return self._pipeline("publish repairs", commands).count(0)

    def _pipeline(self, what: str, commands: Sequence[bytes]) -> list[Any]:
        replies = self._connection.pipeline(b"".join(commands), len(commands))
        for reply in replies:
            self._check(what, reply)
        return replies

    def _call(self, what: str, *command: bytes | str | int) -> Any:
        reply = self._connection.call(*command)
        self._check(what, reply)
        return reply

    def _check(self, what: str, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self._connection.address, what, str(reply))
