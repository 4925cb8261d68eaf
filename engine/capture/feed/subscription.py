"""What a feed's connections are for: where they lead, what is subscribed to, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.capture.notifications import see_to_flags
from engine.capture.own_keys import STAYS, own_key, tag_of
from engine.capture.watch.sentry import Sentry
from engine.capture.watch.sight import Sight
from engine.config import RedisSettings
from engine.redis.address import parse_url
from engine.redis.connection import READ_BYTES, RespConnection
from engine.redis.node import role_of
from engine.routing.databases import Databases, databases_of
from engine.routing.feeds import Feed


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to, and how; ``redis`` reaches the feed's node, ``shard`` counts from 0.

    ``database`` is the one of the engine's own keys.
    """

    redis: RedisSettings
    database: int
    feed: Feed
    shard: int
    read_bytes: int

    @property
    def who(self) -> Mapping[str, object]:
        """Return what names the feed in a log line."""
        place = self.feed.node.place
        return {"shard": self.shard + 1, **({"node": place} if place else {})}

    @property
    def databases(self) -> Databases:
        """Return the databases whose keys the feed hears of."""
        return databases_of(self.redis, self.database)

    @property
    def keepsake_key(self) -> bytes:
        """Return the key that stays on the feed's node."""
        return own_key(tag_of(self.feed.node) or "", STAYS).encode()

    def leads_elsewhere(self, other: Subscription) -> bool:
        """Tell whether the other is to be read from another server, or hears of other keys there."""
        places = parse_url(self.redis.url), parse_url(other.redis.url)
        return places[0] != places[1] or self.feed.patterns != other.feed.patterns

    def fits(self, role: bytes) -> bool:
        """Tell whether a server with this role in replication, b"" for unknown, is one to listen to."""
        return not role or (role != b"master") == bool(self.feed.node.reads_at)

    def open(self, flags: str, *, sees_to_flags: bool) -> tuple[RespConnection, Sentry, Sight]:
        """Connect, and take a first look. Blocks. ``flags`` are set where they lack, if they are to be seen to."""
        # Parsing a message costs 0.17 µs in RESP2, 0.22 in RESP3, which alone takes commands beside it.
        connection = self._open("subscriber", protocol=3 if self.redis.iam else 2, read_bytes=self.read_bytes)
        try:
            if sees_to_flags:
                see_to_flags(connection, flags, may_set=self.redis.set_notifications)
            is_clustered = bool(self.feed.node.id)
            several = self.databases if self.databases.are_several else None
            sentry, sight = Sentry.begin(
                self._open("sentry"), self.keepsake_key, is_clustered=is_clustered, databases=several
            )
        except BaseException:
            connection.close()
            raise
        return connection, sentry, sight

    def open_for_repairs(self) -> RespConnection:
        """Connect for a scan. Blocks."""
        return self._open("repair")

    def _open(self, purpose: str, *, protocol: int = 2, read_bytes: int = READ_BYTES) -> RespConnection:
        node = self.feed.node
        return RespConnection.open(
            self.redis,
            name=f"engine-{purpose}-{self.shard + 1}",
            protocol=protocol,
            database=self.database,
            read_bytes=read_bytes,
            readonly=bool(node.id and node.reads_at),
            # A server that is named by its URL alone may be either.
            role=role_of(node) if node.address or node.reads_at else "",
        )
