"""A server in memory, and a connection that answers the fetcher's own commands."""

from __future__ import annotations

from typing import Any, ClassVar

import hiredis

from engine.delivery.reading.connection import ReadConnection
from engine.errors import RedisUnreachable
from engine.redis.address import parse_url
from tests.simulation.world import World

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
COMMAND_OF = {"hash": b"HGETALL", "string": b"GET"}
VALUES = 2
"""Of a key whose values come again."""
EVENT_OF = {"hash": "hset", "string": "set", "none": "del"}


class Cache:
    """Keys, each with the number of its last change: the truth that destinations are compared with."""

    def __init__(self, world: World, *, repeats: bool = False) -> None:
        """``repeats``: a key has few values, which come again and again; else each change has a value of its own."""
        self.world = world
        self._repeats = repeats
        self.seq: dict[bytes, int] = {}
        self.changed_ms: dict[bytes, int] = {}
        self.kinds: dict[bytes, str] = {}
        self.read: dict[bytes, int] = {}
        """Which change of a key the newest read has seen."""
        self.deleted: dict[bytes, int] = {}
        """The last change of a key that took it away."""
        self.behind_ms = 0
        """By how much the server's clock was set back."""
        self.kind_at: dict[tuple[bytes, int], str] = {}

    def change(self, key: bytes, kind: str) -> str:
        """Write or delete a key; return the event."""
        self.seq[key] = self.seq.get(key, 0) + 1
        self.changed_ms[key] = self.world.true_ms
        self.kinds[key] = self.kind_at[key, self.seq[key]] = kind
        if kind == "none":
            self.deleted[key] = self.seq[key]
        return EVENT_OF[kind]

    def body_of(self, key: bytes, seq: int) -> str | None:
        """Return what a destination has to hold after this change."""
        kind, value = self.kind_at[key, seq], self._value(seq)
        return {"hash": f'{{"n":"{value}"}}', "string": f'"{value}"', "none": None}[kind]

    def _value(self, seq: int) -> str:
        return str(seq % VALUES if self._repeats else seq)

    def answer(self, command: list[bytes]) -> Any:
        """Return the reply to one command."""
        name = command[0]
        if name == b"TIME":
            moment_ms = self.world.true_ms - self.behind_ms
            return [str(moment_ms // 1_000), str(moment_ms % 1_000 * 1_000)]
        if name == b"ROLE":
            return ["master", 0, []]
        if name == b"INFO":
            return "maxmemory:0\r\nmaxmemory_policy:noeviction\r\nevicted_keys:0\r\nuptime_in_seconds:1000000000\r\n"
        key = command[1]
        kind = self.kinds.get(key, "none")
        if name == b"TYPE" and kind != "none":
            return kind
        if kind != "none" and name != COMMAND_OF[kind]:
            return hiredis.ReplyError(WRONG_TYPE)
        seq = self.read[key] = self.seq.get(key, 0)
        if kind == "none":
            return {b"TYPE": "none", b"HGETALL": {}, b"GET": None}[name]
        value = self._value(seq)
        return {"n": value} if kind == "hash" else value


class FakeConnection(ReadConnection):
    """Stands for the fetcher's connection; ``cache`` is the server of the simulation that runs."""

    cache: ClassVar[Cache]

    def __init__(self) -> None:
        self.address = parse_url("redis://nowhere:1/0")
        self.received_bytes = self.epoch = self.renewal_ms = 0

    @classmethod
    def open(cls, *_: Any, **__: Any) -> FakeConnection:
        """Connect, where there is a server."""
        cls._reach()
        return cls()

    def call(self, *command: bytes | str | int) -> Any:
        """Answer one command."""
        return self.cache.answer([str(word).encode() for word in command])

    def begin(self, commands: bytes, count: int, reply_bytes_max: int) -> None:
        """Take commands."""
        self.asked = hiredis.Reader()
        self.asked.feed(commands)
        self.received_bytes = 32 * count

    def wants(self) -> int:
        """Tell that there is nothing to wait for."""
        return 0

    def go_on(self) -> list[Any] | None:
        """Answer them all at once."""
        self._reach()
        replies = []
        while (command := self.asked.gets()) is not False:
            replies.append(self.cache.answer(command))
        self.cache.world.point()
        return replies

    def receive_available(self) -> bool:
        """Tell that nothing came unasked."""
        return False

    def close(self) -> None:
        """Close nothing."""

    @classmethod
    def _reach(cls) -> None:
        world = cls.cache.world
        if world.is_redis_down or world.rng.random() < 0.01:
            raise RedisUnreachable("the server is away")
