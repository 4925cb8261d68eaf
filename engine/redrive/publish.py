"""Marks keys dirty in the running engine, by publishing what its subscribers take for an event of the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from engine.capture.shards import channel_prefix
from engine.config import RedisSettings
from engine.errors import EngineError, RedisError
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import refusal
from engine.redrive.letters import Letter

NAME = "engine-redrive"
SUBSCRIBER_NAME = b" name=engine-subscriber-"
"""What a subscriber's connection is called in the server's list of clients."""


class NotListening(EngineError):
    """The engine does not hear what is published."""


class Publisher:
    """Connects at the first letter. ``problem`` is why nothing more can be sent, None while something can."""

    def __init__(self, redis: RedisSettings) -> None:
        self.problem: EngineError | None = None
        self._redis = redis
        self._connection: RespConnection | None = None
        self._prefix = b""
        self._has_name = False

    def send(self, letters: Sequence[Letter]) -> list[bool]:
        """Publish these letters' keys in one pipeline; return which of them the engine has heard."""
        try:
            connection = self._ready()
            commands = [pack("PUBLISH", self._prefix + letter.key, letter.event) for letter in letters]
            # Asked after them: who is subscribed then was not cut off meanwhile.
            commands.append(pack("CLIENT", "LIST", "TYPE", "pubsub"))
            *replies, clients = connection.pipeline(b"".join(commands), len(commands))
        except RedisError as error:
            self.problem = error
            return [False] * len(letters)
        return self._judge(replies, clients)

    def _judge(self, replies: Sequence[Any], clients: Any) -> list[bool]:
        assert self._connection is not None
        address = self._connection.address
        denied = next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
        if denied is not None:
            self.problem = refusal(address, "publish", str(denied))
        # Anybody may be subscribed to all events; only the engine's own subscribers deliver.
        elif self._has_name and isinstance(clients, bytes) and SUBSCRIBER_NAME not in clients:
            self.problem = NotListening(
                f"no engine listens at {address}", hint="start it, then run this again: nothing is lost meanwhile"
            )
            return [False] * len(replies)
        heard = [isinstance(reply, int) and reply > 0 for reply in replies]
        if self.problem is None and not all(heard):
            self.problem = NotListening(
                f"nobody at {address} heard of {heard.count(False)} of {len(heard)} keys: the engine does not run, "
                "or one of its subscribers is reconnecting",
                hint="see engine status, then run this again: nothing is lost meanwhile",
            )
        return heard

    def _ready(self) -> RespConnection:
        if self._connection is None:
            connection = self._connection = RespConnection.open(self._redis, name=NAME, protocol=2)
            self._prefix = channel_prefix(connection.address.database)
            # Where clients may not name themselves, the engine's have no name either.
            self._has_name = connection.call("CLIENT", "GETNAME") == NAME.encode()
        return self._connection

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
