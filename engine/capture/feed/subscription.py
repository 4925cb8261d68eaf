"""What a feed's connections are for: where they lead, what is subscribed to, and what they are called.  (pure)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.config import RedisSettings
from engine.routing.feeds import Feed


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to, and how; ``redis`` reaches the feed's node, ``shard`` counts from 0."""

    redis: RedisSettings
    database: int
    feed: Feed
    shard: int
    read_bytes: int

    def name(self, purpose: str) -> str:
        """Return what the server is to call a connection of ours."""
        return f"engine-{purpose}-{self.shard + 1}"

    @property
    def who(self) -> Mapping[str, object]:
        """Return what names the feed in a log line."""
        node = self.feed.node
        return {"shard": self.shard + 1, **({"node": node.reads_at or node.address} if node.address else {})}
