"""What a subscriber's loop asks of a source of changes.

A source serves one feed: it marks keys dirty in the subscriber's set (`engine.capture.shared.Shared`), says up to when
everything was taken in (`Source.reached`), and finds by itself what was missed. The loop flushes the set to the rings,
and puts a watermark behind it as soon as nothing is dirty. What is settled comes back as the rings' watermarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.errors import RedisError
from engine.model import Missed
from engine.redis.connection import RespConnection
from engine.routing.feeds import Feed
from engine.routing.nodes import Node


class Source(Protocol):
    """One feed's changes. The loop calls `listen` when one of the `sockets` is readable, and when it is `due_ms`; and
    `lose` after any `RedisError` of it.

    No method waits for the server. ``marked`` is the watermark that is in all rings: the loop sets it.
    """

    marked: Missed

    @property
    def node(self) -> Node:
        """Return the feed's node, as of the newest topology."""

    @property
    def has_listened(self) -> bool:
        """Tell whether it was ever in working order: a subscriber is ready once all of its sources were."""

    @property
    def is_proved(self) -> bool:
        """Tell whether all that changes now is taken in, as far as that can be known."""

    @property
    def is_closed(self) -> bool:
        """Tell whether it takes in no more, for good: a drain ends once that is true of all."""

    def listen(self, moment_ms: int, *, is_ready: bool) -> None:
        """Take in what one read brings, a bounded part at most, if anything ``is_ready``; raise `RedisError`."""

    def has_more(self) -> bool:
        """Tell whether the read left more than a poll of the sockets may show: the loop then turns at once."""

    def lose(self, error: RedisError, moment_ms: int) -> None:
        """Give the connection up, and plan the next attempt."""

    def find(self, missed: Sequence[Missed]) -> None:
        """Find what was missed: at a start, for new routes, and after damage to a ring or a backlog."""

    def advance_repair(self, moment_ms: int) -> None:
        """Continue to find what was missed, by at most one step."""

    def compared(self, number: int) -> None:
        """Note that the comparison with the destinations that this request asked for is done."""

    def reached(self) -> Missed | None:
        """Return up to when everything is in the dirty set or was before; None if ``marked`` already says so.

        Asked only while nothing is dirty.
        """

    def set_routes(self, missed: Sequence[Missed]) -> None:
        """Take the routes that all feeds share now; ``missed`` is what new ones have to receive."""

    def follow(self, feed: Feed, missed: Sequence[Missed], moment_ms: int) -> None:
        """Become this feed: possibly with other slots, or at another server."""

    def start_drain(self, moment_ms: int) -> None:
        """Take in what is there now, but nothing after it, and close."""

    def close(self) -> None:
        """Take in nothing more; what was taken in is still delivered."""

    def sockets(self) -> list[RespConnection]:
        """Return the connections that something may come from."""

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is to be done that no readable socket announces."""
