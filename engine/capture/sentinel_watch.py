"""The primary as a Sentinel names it, asked twice a second, beside the loop.

After a failover by command the old primary keeps leading, and accepting writes, until a Sentinel demotes it eight
seconds or more later. Nothing that it says shows that another leads, so a Sentinel is asked. Asking is better than
waiting for ``+switch-master``: the Sentinel that leads the failover names the new primary as soon as it is promoted,
but announces it only when the replicas follow it too; and no message can be missed.
"""

from __future__ import annotations

import hiredis

from engine.capture.feed.exchange import Reach
from engine.config import RedisSettings
from engine.errors import RedisError, RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.address import Address, mapped, parse_url
from engine.redis.connection import RespConnection, open_sentinel, pack
from engine.redis.sentinel import CONNECT_MS_MAX, place_in, question_of

log = get_logger(__name__)

ASK_MS = 500
RETRY_MS_MAX = 10_000
AGAIN_MS_MIN, AGAIN_MS_MAX = 1_000, 60_000
"""While it lasts, the request is repeated at growing intervals: the node that was asked may not have known yet."""
CONNECT_LOOK_MS = 50


class SentinelWatch:
    """One subscriber's. Each begins with a different Sentinel, so that one that is cut off misleads few."""

    def __init__(self, redis: RedisSettings, shard: int) -> None:
        self._redis = redis
        self._address = parse_url(redis.url)
        self._question = pack(*question_of(self._address))
        self._turn = shard
        self._reach = Reach()
        self._due_ms = 0
        self._failures = 0
        self._named = ""
        self._again_ms = 0
        self._again_wait_ms = AGAIN_MS_MIN

    def advance(self, followed: str, moment_ms: int) -> str:
        """Do what is due; return why the nodes should be asked for, "" for no reason.

        ``followed`` is the ``host:port`` of the primary that is captured, or whose replica is.
        """
        try:
            place = self._ask(moment_ms)
        except RedisError as error:
            log.debug("sentinel_silent", error=str(error), attempt=self._failures + 1)
            self._lost(moment_ms)
            return ""
        return self._news(place, followed, moment_ms) if place else ""

    def _ask(self, moment_ms: int) -> str:
        """Return the primary that the Sentinel names, "" before its answer; raise `RedisError`."""
        if not self._reach.is_begun and moment_ms < self._due_ms:
            return ""
        if not self._reach.is_open(self._connect, min(self._redis.read_timeout_ms, CONNECT_MS_MAX)):
            return ""
        exchange = self._reach.exchange
        if not exchange.is_asking:
            if moment_ms >= self._due_ms:
                self._due_ms = moment_ms + ASK_MS
                exchange.ask(self._question, 1, moment_ms)
            return ""
        replies = exchange.poll(moment_ms)
        if replies is None:
            return ""
        if not replies[0] or isinstance(replies[0], hiredis.ReplyError):
            raise RedisUnreachable(f"{exchange.connection.address} names no primary: {replies[0]}")
        self._failures = 0
        return mapped(self._redis.node_addresses, place_in(replies[0]))

    def _connect(self) -> RespConnection:
        host, port = self._address.sentinels[self._turn % len(self._address.sentinels)]
        return open_sentinel(self._redis, Address(host, port, 0, self._address.tls))

    def _lost(self, moment_ms: int) -> None:
        """Turn to the next Sentinel, at once until all have failed; then at growing intervals."""
        self.close()
        self._turn += 1
        self._failures += 1
        rounds, others = divmod(self._failures, len(self._address.sentinels))
        self._due_ms = moment_ms if others else moment_ms + min(RETRY_MS_MAX, ASK_MS << min(rounds - 1, 10))

    def _news(self, place: str, followed: str, moment_ms: int) -> str:
        if place != self._named or place == followed:
            self._named, self._again_ms, self._again_wait_ms = place, moment_ms, AGAIN_MS_MIN
        if place == followed or moment_ms < self._again_ms:
            return ""
        self._again_ms = moment_ms + self._again_wait_ms
        self._again_wait_ms = min(2 * self._again_wait_ms, AGAIN_MS_MAX)
        return f"a Sentinel names {place} as the primary"

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until something is due that no readable socket announces."""
        if self._reach.is_connecting:
            return CONNECT_LOOK_MS
        if self._reach.sockets():
            return ASK_MS
        return max(1, self._due_ms - moment_ms)

    def sockets(self) -> list[RespConnection]:
        """Return the connections that something may come from."""
        return self._reach.sockets()

    def close(self) -> None:
        """Close the connection."""
        self._reach.close()
