"""Connections that IAM let in are authenticated again before AWS ends them, so that a feed has no gap for it.

That takes RESP3: in RESP2 a connection that has subscribed to anything takes no ``AUTH``. The token is made beside the
loop. One that is refused, or cannot be had, is retried: until AWS ends it the connection does its work.
"""

from __future__ import annotations

from functools import partial

from engine.config import RedisSettings
from engine.errors import RedisError
from engine.observe.logs import get_logger
from engine.redis.connecting import Connecting
from engine.redis.connection import IAM_LIFE_MS, RespConnection, pack
from engine.redis.credentials import Credentials, credentials_of

log = get_logger(__name__)

AGAIN_MS = 60_000


class Renewal:
    """Of one feed's connections, which were made together."""

    def __init__(self, redis: RedisSettings) -> None:
        self._redis = redis
        self._making: Connecting[Credentials] | None = None
        self.is_awaited = False
        """Whether the answer of the subscribed connection is still to come."""

    def command(self, connection: RespConnection, moment_ms: int) -> bytes:
        """Return what is to be sent to the feed's connections now; nothing but once in a long while."""
        if not connection.renewal_ms or moment_ms < connection.renewal_ms:
            return b""
        try:
            self._making = self._making or Connecting(partial(credentials_of, self._redis))
            credentials = self._making.poll()
        except RedisError as error:
            self._failed(connection, str(error), moment_ms)
            return b""
        if credentials is None:
            return b""
        self._making = None
        self.is_awaited = True
        connection.renewal_ms = moment_ms + IAM_LIFE_MS
        return pack("AUTH", credentials.username, credentials.password)

    def answered(self, connection: RespConnection, refusal: str, moment_ms: int) -> None:
        """Take in what the subscribed connection was answered, "" for yes."""
        self.is_awaited = False
        if refusal:
            self._failed(connection, refusal, moment_ms)

    def _failed(self, connection: RespConnection, why: str, moment_ms: int) -> None:
        self._making = None
        connection.renewal_ms = moment_ms + AGAIN_MS
        log.warning("renewal_failed", address=str(connection.address), error=why, retry_in_ms=AGAIN_MS)
