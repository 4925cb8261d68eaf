"""One node, examined before capture starts: what it is, what it holds, whether it allows what the engine does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from engine.capture.notifications import Flags, see_to_flags, try_canary
from engine.capture.rehearsal import denied_repairs, rehearse
from engine.capture.sources.stream.checks import check_streams
from engine.capture.watch.rights import unseen
from engine.config import CaptureSettings, RedisSettings
from engine.errors import NotificationsOff, RedisUnreachable
from engine.redis.connection import RespConnection, pack
from engine.redis.databases import check_selectable, in_a_cluster
from engine.redis.errors import refusal
from engine.redis.node import settings_for
from engine.routing.assignment import imbalance
from engine.routing.databases import databases_of
from engine.routing.feeds import Feed
from engine.routing.nodes import Node

_SAMPLE_AT_ONCE = 100
_SAMPLE_BYTES_MAX = 16 * 1024 * 1024


class NodeLook:
    """A connection to a node, and what was seen through it. Whoever opens one closes it."""

    def __init__(self, redis: RedisSettings, node: Node, connection: RespConnection) -> None:
        self.node = node
        self.sample: list[bytes] = []
        """A random sample of its keys."""
        self.keys = 0
        """How many keys it has; 0 if it does not say."""
        self.server_ms = 0
        """Its own clock, Unix ms."""
        self._redis = settings_for(redis, node)
        self._connection = connection
        self._warnings: list[str] = []

    @classmethod
    def open(cls, redis: RedisSettings, node: Node, sample_keys_max: int) -> NodeLook:
        """Connect and look; raise `RedisError` if that is impossible."""
        at_node = settings_for(redis, node)
        try:
            connection = RespConnection.open(at_node, name="engine-planner")
        except RedisUnreachable as error:
            raise _not_reached(node, error) from error
        look = cls(redis, node, connection)
        try:
            look._weigh(sample_keys_max)
            time: Any = connection.call("TIME")
            if isinstance(time, hiredis.ReplyError):
                raise refusal(connection.address, "report its time, which orders the values", str(time))
            look.server_ms = int(time[0]) * 1_000 + int(time[1]) // 1_000
        except BaseException:
            connection.close()
            raise
        return look

    def _weigh(self, sample_keys_max: int) -> None:
        """Take a sample of keys, of each database where there are several, and count them."""
        home = self._connection.address.database
        databases = databases_of(self._redis, home)
        if not databases.are_several:
            self._weigh_one(sample_keys_max)
            return
        if self._connection.facts.get("mode") == "cluster":
            raise in_a_cluster(self._connection.address)
        check_selectable(self._connection, databases.numbers, home)
        for number in databases.numbers:
            self._connection.call("SELECT", number)
            self._weigh_one(-(-sample_keys_max // len(databases.numbers)))
        self._connection.call("SELECT", home)

    def _weigh_one(self, sample_keys_max: int) -> None:
        """Take a sample of keys, bounded in number and bytes, and note if none can be obtained."""
        sample_keys_max += len(self.sample)
        size = 0
        while len(self.sample) < sample_keys_max and size < _SAMPLE_BYTES_MAX:
            count = min(_SAMPLE_AT_ONCE, sample_keys_max - len(self.sample))
            for reply in self._connection.pipeline(pack("RANDOMKEY") * count, count):
                if isinstance(reply, hiredis.ReplyError):
                    self._warnings.append(f"no keys could be sampled, so shards are cut blindly: {reply}")
                    sample_keys_max = 0
                    break
                if reply is None:
                    sample_keys_max = 0
                    break
                self.sample.append(reply)
                size += len(reply)
        keys = self._connection.call("DBSIZE")
        self.keys += keys if isinstance(keys, int) else 0

    def describe(self) -> str:
        """Return in words what the server is, as far as it tells."""
        facts = self._connection.facts
        reply = self._connection.call("CONFIG", "GET", "maxmemory-policy")
        policy = reply.get(b"maxmemory-policy", b"") if isinstance(reply, dict) else b""
        name = f"{facts.get('server', 'redis').capitalize()} {facts.get('version', '?')}"
        role = {"master": "primary", "slave": "replica"}.get(facts.get("role", ""), facts.get("role", ""))
        details = [facts.get("mode", ""), role, f"maxmemory-policy {policy.decode()}" if policy else ""]
        return f"{name} ({', '.join(filter(None, details))})"

    def try_all(self, feeds: Sequence[Feed], needed: str) -> tuple[str, ...]:
        """Try the patterns, the commands and the notifications; return what the user should know.

        Raises `RedisError`; `NotificationsOff` has the warnings with it.
        """
        rehearse(self._redis, self._connection.address.database, feeds)
        warnings = [
            *self._warnings,
            imbalance(feeds, self.sample),
            denied_repairs(self._connection, feeds),
            *unseen(self._connection, self._redis.username or "default"),
        ]
        try:
            warnings.insert(0, self._see_to_notifications(needed))
        except NotificationsOff as error:
            error.warnings = tuple(filter(None, warnings))
            raise
        return tuple(filter(None, warnings))

    def try_streams(self, feeds: Sequence[Feed], capture: CaptureSettings) -> tuple[str, ...]:
        """Check that the streams of these feeds may be read; return what the user should know. Raises `RedisError`."""
        return check_streams(self._connection, [stream for feed in feeds for stream in feed.streams], capture)

    def try_scans(self) -> tuple[str, ...]:
        """Try what a scan asks for; return what the user should know. Raises `RedisError`."""
        reply = self._connection.call("SCAN", 0, "COUNT", 1)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self._connection.address, "be scanned", str(reply))
        return tuple(filter(None, self._warnings))

    def _see_to_notifications(self, needed: str) -> str:
        may_set = self._redis.set_notifications
        if see_to_flags(self._connection, needed, may_set=may_set) is Flags.CONFIG_REFUSED:
            return try_canary(self._redis, self._connection.address.database, needed, self.node)
        return ""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _not_reached(node: Node, error: RedisUnreachable) -> RedisUnreachable:
    """Say where other nodes place this one, and what to do if its address is different from here."""
    if not node.address:
        return error
    whose = "the cluster has a node" if node.id else "the primary is"
    return RedisUnreachable(
        f"{whose} at {node.address}, which can't be reached: {error.message}",
        hint=f'if it is reached elsewhere from here, say where: redis.node_addresses = ["{node.address}=HOST:PORT"]',
    )
