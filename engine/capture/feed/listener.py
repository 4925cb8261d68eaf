"""A feed's subscription: made, kept alive, and made again forever.

**The watermark.** A ping is answered in order with the messages around it. So once its pong is here, everything
that was published before the ping was sent has been read: what a broken connection may have lost is younger than
that. Data that came is no such proof, because the server may have queued it long before. Its time is the server's own:
this host's clock may jump. And it counts only when the sentry has seen nothing that events do not tell of.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any

import hiredis

from engine.capture.feed.lookout import Lookout
from engine.capture.feed.renewal import Renewal
from engine.capture.feed.subscription import Subscription
from engine.capture.watch.sentry import Sentry
from engine.capture.watch.sight import Sight
from engine.errors import RedisUnreachable
from engine.redis.connecting import Connecting
from engine.redis.connection import PRIMARY, RespConnection, pack
from engine.redis.errors import not_redis, refusal, wrong_role
from engine.ring.lags import LagRow, Stage

PING_MS = 1_000
SILENCE_MS_MIN = 2 * PING_MS
"""A ping or a look that is not answered for this long, and ``redis.read_timeout_ms``, means a dead connection."""
OVERDUE_FACTOR = 3
"""As long as other bytes come, the answer may be behind them; for this many times longer it may not."""
RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000
SILENCE_LOOK_MS = 250
"""How often is looked whether an answer is overdue."""
CONNECT_LOOK_MS = 5
"""How often is looked whether the thread that connects has come to its end."""


class Phase(Enum):
    """How far the subscription has come."""

    WAITING = auto()
    CONNECTING = auto()
    SUBSCRIBING = auto()
    LISTENING = auto()
    CLOSED = auto()


class Listener:
    """One subscription. The owner calls `advance` each turn, and `lost` after any `RedisError` that comes of it.

    ``flags`` are the notification flags that the subscription lives on. ``is_unknown`` where nobody has seen to the
    server's before.
    """

    def __init__(
        self,
        subscription: Subscription,
        flags: str,
        chance: Callable[[], float] = random.random,
        *,
        is_unknown: bool = False,
    ) -> None:
        self.phase = Phase.WAITING
        self.completions = 0
        """How often all of its patterns were subscribed to."""
        self.watermark_ms = 0
        """Everything published before was read (Unix ms of the server), 0 until then. What events did not tell of since
        the look before the newest is in `Lookout.take_changes`."""
        self.looks_asked = self.looks_taken = 0
        """The number of the newest look that was begun, and of the newest that came to its end."""
        self.lookout = Lookout(subscription, flags)
        """What events do not tell."""
        self._round_trip_ms = -1
        """How long the newest ping was on its way, among the events; −1 once that was counted."""
        self._events = 0
        """That were read since."""
        self.failures = 0
        self.is_drained = self._is_draining = False
        self.connection: RespConnection | None = None
        self.sentry: Sentry | None = None
        self.subscription = subscription
        self._is_unknown = is_unknown
        self._renewal = Renewal(subscription.redis)
        self._chance = chance
        self._attempt: Connecting[tuple[RespConnection, Sentry, Sight]] | None = None
        self._confirmed = 0
        self._due_ms = self._heard_ms = self._pinged_ms = self._asked_ms = 0
        self._pings_out = self._pongs = self._asked_at_pong = 0
        self._pending_ms = self._asked_for_ms = 0

    def advance(self, moment_ms: int, *, is_ready: bool = True) -> bool:
        """Read, if anything ``is_ready``, and do what is due; return True when bytes came. Raises `RedisError`."""
        if self.phase is Phase.WAITING and moment_ms >= self._due_ms:
            self.phase = Phase.CONNECTING
            # On a return, flags are seen to again: a server that was restarted may have none.
            sees_to_flags = self._is_unknown or self.completions > 0 or self.failures > 0
            connect = partial(self.subscription.open, self.lookout.flags, sees_to_flags=sees_to_flags)
            self._attempt = Connecting(connect)
        if self.phase is Phase.CONNECTING:
            self._finish_connecting(moment_ms)
        if self.connection is None:
            return False
        has_bytes = is_ready and self.connection.receive_available()
        if has_bytes:
            self._heard_ms = moment_ms
        self._keep_alive(moment_ms, has_bytes=has_bytes)
        return has_bytes

    def next_reply(self) -> Callable[[], Any]:
        """Return the parser's function, or one whose replies are as in RESP2, where that is not spoken."""
        assert self.connection is not None
        return _as_in_resp2(self.connection.reply) if self.subscription.redis.iam else self.connection.reply

    def _finish_connecting(self, moment_ms: int) -> None:
        assert self._attempt is not None
        connected = self._attempt.poll()
        if connected is None:
            return
        self._attempt = None
        self.connection, self.sentry, sight = connected
        self._renewal = Renewal(self.subscription.redis)
        self.phase = Phase.SUBSCRIBING
        self._confirmed = self._pings_out = self._pending_ms = self.watermark_ms = 0
        self._heard_ms = self._pinged_ms = moment_ms
        canary = self.lookout.begin(sight, moment_ms)
        self.connection.send(pack(b"PSUBSCRIBE", *self.subscription.feed.patterns) + canary)

    def follow(self, subscription: Subscription, moment_ms: int) -> bool:
        """Listen to this from now on; return True if that takes another connection, which is made at once."""
        is_elsewhere = subscription.leads_elsewhere(self.subscription) or not subscription.fits(self.lookout.role)
        self.subscription = subscription
        canary = self.lookout.follow(subscription)
        if is_elsewhere:
            self.close()
            self.phase, self._due_ms, self._is_unknown = Phase.WAITING, moment_ms, True
        elif self.connection is not None:
            self.connection.send(canary)
        return is_elsewhere

    @property
    def is_proved(self) -> bool:
        """Tell whether all that is published now is heard, as far as that can be known."""
        return self.phase is Phase.LISTENING and self.watermark_ms > 0

    def count_lag(self, lags: LagRow, events: int) -> None:
        """Note how many events were read; count how long they may have been on their way, once a pong tells."""
        self._events += events
        if self._round_trip_ms >= 0:
            lags.record(Stage.CAPTURED, self._round_trip_ms, self._events)
            self._events, self._round_trip_ms = 0, -1

    def handle(self, reply: Any) -> bool:
        """Take in a reply that is no event; return True when it makes the subscription complete."""
        assert self.connection is not None
        if isinstance(reply, hiredis.ReplyError):
            if self._renewal.is_awaited:
                self._renewal.answered(self.connection, str(reply), self._heard_ms)
                return False
            # Where all patterns are subscribed to, it is not one of them that we may not hear.
            if self.phase is Phase.LISTENING and self.lookout.is_canary_refused(str(reply)):
                return False
            raise refusal(self.connection.address, "subscribe", str(reply))
        if reply[0] == b"psubscribe":
            self._confirmed += 1
            if self._confirmed == len(self.subscription.feed.patterns):
                self.phase = Phase.LISTENING
                self.completions += 1
                self._ping()
                return True
        elif reply[0] == b"pong" and self._renewal.is_awaited and reply[1] == b"OK":
            self._renewal.answered(self.connection, "", self._heard_ms)
        elif reply[0] == b"pong":
            if not (isinstance(reply[1], bytes) and reply[1].isdigit()):
                raise not_redis(self.connection.address, ValueError("a pong that answers no ping of ours"))
            self._pings_out -= 1
            self._pongs += 1
            self._round_trip_ms = self._heard_ms - self._pinged_ms
            self._pending_ms = int(reply[1])
            if not self._pings_out and self.lookout.are_events_missing():
                self.watermark_ms = 0
            self._ask()
        elif reply[0] == b"message":
            self.lookout.heard(reply[2])
        return False

    def _ask(self) -> None:
        """Have the sentry look, for the newest pong; one that comes while it looks is for the next look."""
        assert self.connection is not None
        assert self.sentry is not None
        if not self.sentry.is_asking():
            self._asked_ms = self._heard_ms
            self._asked_for_ms, self._asked_at_pong = self._pending_ms, self._pongs
            self.looks_asked += 1
            if command := self._renewal.command(self.connection, self._heard_ms):
                self.connection.send(command)
                self.sentry.tell(command, 1)
            canary = self.lookout.canary
            if canary is not None and canary.is_due(self._heard_ms):
                self.sentry.tell(*canary.commands(self._heard_ms))
            self.sentry.ask()

    def _ping(self) -> None:
        assert self.connection is not None
        self._pinged_ms = self._heard_ms
        self._pings_out += 1
        self.lookout.pinged()
        self.connection.send(pack(b"PING", self.lookout.outlook.sight.server_ms))

    def _look(self, moment_ms: int) -> None:
        """Take in what the sentry found."""
        assert self.connection is not None
        assert self.sentry is not None
        sight = self.sentry.poll()
        if sight is None:
            if self.sentry.is_asking() and moment_ms - self._asked_ms > self._limit_ms():
                raise RedisUnreachable(f"{self.sentry.connection.address} does not answer the sentry")
            return
        self.looks_taken = self.looks_asked
        counts = self.lookout.take(sight, self.sentry.take_others(), self._asked_ms, moment_ms)
        if self.lookout.has_resigned:
            raise wrong_role(self.connection.address, PRIMARY)
        if counts:
            self.watermark_ms = self._asked_for_ms
            self.failures = 0
        if self.lookout.missing_flags:
            self.sentry.set_flags(self.lookout.missing_flags)
        if self._asked_at_pong != self._pongs:
            self._ask()
        else:
            self.is_drained = self._is_draining and not self._pings_out

    def _limit_ms(self) -> int:
        return max(SILENCE_MS_MIN, self.subscription.redis.read_timeout_ms)

    def _keep_alive(self, moment_ms: int, *, has_bytes: bool) -> None:
        assert self.connection is not None
        if self._pings_out or self.phase is Phase.SUBSCRIBING:
            # Bytes that come prove nothing: a proxy may have swallowed the ping, and messages with it.
            waited_ms = moment_ms - self._pinged_ms
            if waited_ms > self._limit_ms() * (OVERDUE_FACTOR if has_bytes else 1):
                raise RedisUnreachable(f"{self.connection.address} has not answered for {waited_ms // 1_000} s")
        if self.phase is not Phase.LISTENING:
            return
        self._look(moment_ms)
        if not self._pings_out and moment_ms - self._pinged_ms >= PING_MS:
            self._heard_ms = moment_ms
            self._ping()

    def ask_for_the_end(self, moment_ms: int) -> bool:
        """Have ``is_drained`` set once all that is published now was read; False if nobody listens."""
        if self.phase is not Phase.LISTENING or self.connection is None:
            return False
        self._is_draining = True
        self._heard_ms = moment_ms
        self._ping()
        return True

    def has_more(self) -> bool:
        """Tell whether more bytes may be here than a poll of the socket shows."""
        return self.connection is not None and self.connection.is_full

    def lost(self, moment_ms: int) -> int:
        """Give the connection up, plan the next attempt, return the wait: ever longer until a watermark stands."""
        self.close()
        self.phase = Phase.WAITING
        self.failures += 1
        bound_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(self.failures, 10))
        wait_ms = int(RETRY_MS_MIN + (bound_ms - RETRY_MS_MIN) * self._chance())
        self._due_ms = moment_ms + wait_ms
        return wait_ms

    def due_ms(self, moment_ms: int) -> int:
        """Return when (monotonic) something is to be done that no readable socket announces."""
        if self.phase is Phase.WAITING:
            return self._due_ms
        if self.phase is Phase.CONNECTING:
            return moment_ms + CONNECT_LOOK_MS
        if self.phase is Phase.LISTENING and not self._pings_out:
            return self._pinged_ms + PING_MS
        return (moment_ms // SILENCE_LOOK_MS + 1) * SILENCE_LOOK_MS

    def sockets(self) -> list[RespConnection]:
        """Return the connections that something may come from."""
        found = [] if self.connection is None else [self.connection]
        if self.sentry is not None and self.sentry.is_asking():
            found.append(self.sentry.connection)
        return found

    def close(self) -> None:
        """Close the connections, for good unless `lost` says otherwise."""
        if self.connection is not None:
            self.connection.close()
        if self.sentry is not None:
            self.sentry.close()
        self.connection = self.sentry = self._attempt = None
        self.lookout.forget()
        self.phase = Phase.CLOSED


def _as_in_resp2(next_reply: Callable[[], Any]) -> Callable[[], Any]:
    """Return what answers a ping with a pong, where the parser has its token alone."""

    def reply() -> Any:
        told = next_reply()
        return [b"pong", told] if isinstance(told, bytes) else told

    return reply
