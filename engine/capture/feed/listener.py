"""A feed's subscription: made, kept alive, and made again for ever.

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

from engine.capture.feed.canary import Canary
from engine.capture.feed.renewal import Renewal
from engine.capture.feed.subscription import Subscription
from engine.capture.notifications import canary_refusal, see_to_flags
from engine.capture.watch.outlook import Outlook
from engine.capture.watch.sentry import Sentry
from engine.capture.watch.sight import Change, Sight
from engine.errors import RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.connecting import Connecting
from engine.redis.connection import RespConnection, pack
from engine.redis.errors import not_redis, refusal
from engine.routing.routes import merge_flags

log = get_logger(__name__)

PING_MS = 1_000
SILENCE_MS_MIN = 2 * PING_MS
"""A ping or a look that is not answered for this long, and ``redis.read_timeout_ms``, means a dead connection."""
OVERDUE_FACTOR = 3
"""As long as other bytes come, the answer may be behind them; for this many times longer it may not."""
RETRY_MS_MIN, RETRY_MS_MAX = 50, 5_000


class Phase(Enum):
    """How far the subscription has come."""

    WAITING = auto()
    CONNECTING = auto()
    SUBSCRIBING = auto()
    LISTENING = auto()
    CLOSED = auto()


class Listener:
    """One subscription. The owner calls `advance` each turn, and `lost` after any `RedisError` that comes of it.

    ``flags`` are the notification flags that the subscription lives on; the owner changes them with the routes.
    """

    def __init__(self, subscription: Subscription, flags: str, chance: Callable[[], float] = random.random) -> None:
        self.flags = flags
        self.phase = Phase.WAITING
        self.completions = 0
        """How often all of its patterns were subscribed to."""
        self.watermark_ms = 0
        """Everything published before was read (Unix ms of the server), 0 until then. What events did not tell of since
        the look before the newest is in `take_changes`."""
        self.looks_asked = self.looks_taken = 0
        """The number of the newest look that was begun, and of the newest that came to its end."""
        self.outlook = Outlook()
        """What the sentry sees."""
        self.is_deaf = False
        """Whether the server does not send what the routes need, and we may not set it."""
        self.failures = 0
        self.is_drained = False
        self.connection: RespConnection | None = None
        self.sentry: Sentry | None = None
        self.canary: Canary | None = None
        """Only where the server does not tell its flags."""
        self._subscription = subscription
        self._renewal = Renewal(subscription.redis)
        self._chance = chance
        self._attempt: Connecting[tuple[RespConnection, Sentry, Sight]] | None = None
        self._confirmed = 0
        self._due_ms = 0
        self._heard_ms = self._pinged_ms = self._asked_ms = 0
        self._pings_out = self._pongs = self._asked_at_pong = 0
        self._is_draining = False
        self._pending_ms = self._asked_for_ms = 0
        self._changes: list[Change] = []

    def advance(self, moment_ms: int) -> bool:
        """Do what is due; return True when bytes came, so that the parser may have replies. Raises `RedisError`."""
        if self.phase is Phase.WAITING and moment_ms >= self._due_ms:
            self.phase = Phase.CONNECTING
            self._attempt = Connecting(partial(_connect, self._subscription, self.flags if self.completions else ""))
        if self.phase is Phase.CONNECTING:
            self._finish_connecting(moment_ms)
        if self.connection is None:
            return False
        has_bytes = self.connection.receive_available()
        if has_bytes:
            self._heard_ms = moment_ms
        self._keep_alive(moment_ms, has_bytes=has_bytes)
        return has_bytes

    def next_reply(self) -> Callable[[], Any]:
        """Return the parser's function, or one whose replies are as in RESP2, where that is not spoken."""
        assert self.connection is not None
        return _as_in_resp2(self.connection.reply) if self._subscription.redis.iam else self.connection.reply

    def take_changes(self) -> list[Change]:
        """Return what the sentry saw since the last time."""
        changes, self._changes = self._changes, []
        return changes

    def _finish_connecting(self, moment_ms: int) -> None:
        assert self._attempt is not None
        connected = self._attempt.poll()
        if connected is None:
            return
        self._attempt = None
        self.connection, self.sentry, sight = connected
        self.outlook.begin(sight)
        self.phase = Phase.SUBSCRIBING
        self._confirmed = self._pings_out = self._pending_ms = self.watermark_ms = 0
        self.is_deaf = False
        self._heard_ms = self._pinged_ms = moment_ms
        self.connection.send(pack(b"PSUBSCRIBE", *self._subscription.feed.patterns))
        self.canary = Canary(self._subscription.database, self.flags) if self.outlook.sight.flags is None else None
        if self.canary is not None and self.canary.keys:
            self.connection.send(self.canary.subscription())

    def handle(self, reply: Any) -> bool:
        """Take in a reply that is no event; return True when it makes the subscription complete."""
        assert self.connection is not None
        if isinstance(reply, hiredis.ReplyError):
            if self._renewal.is_awaited:
                self._renewal.answered(self.connection, str(reply), self._heard_ms)
                return False
            if self.canary is not None and self.phase is Phase.LISTENING:
                # All patterns are subscribed to: it is the canary's channel that we may not hear.
                self.canary.give_up()
                _tell(self.canary, str(reply), self._subscription)
                return False
            raise refusal(self.connection.address, "subscribe", str(reply))
        if reply[0] == b"psubscribe":
            self._confirmed += 1
            if self._confirmed == len(self._subscription.feed.patterns):
                self.phase = Phase.LISTENING
                self.completions += 1
                self._ping()
                return True
        elif reply[0] == b"pong" and self._renewal.is_awaited and reply[1] == b"OK":
            self._renewal.answered(self.connection, "", self._heard_ms)
        elif reply[0] == b"pong":
            if not (isinstance(reply[1], bytes) and reply[1].isdigit()):
                raise not_redis(self.connection.address, ValueError("a pong that is none of ours"))
            self._pings_out -= 1
            self._pongs += 1
            self._pending_ms = int(reply[1])
            if self.canary is not None and not self._pings_out:
                self._judge(self.canary)
            self._ask()
        elif reply[0] == b"message" and self.canary is not None:
            self.canary.heard(reply[2])
        return False

    def _judge(self, canary: Canary) -> None:
        """See whether the events of the canary came."""
        missing = canary.ponged()
        if missing and not self.is_deaf:
            self._changes.append(Change((f"the server sends no events any more: {missing}",), is_deaf=True))
        elif canary.is_verified and self.is_deaf:
            self._changes.append(Change(("the server sends events again",)))
        if missing:
            self.watermark_ms = 0
        self.is_deaf = bool(missing) or (self.is_deaf and not canary.is_verified)

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
            if self.canary is not None and self.canary.is_due(self._heard_ms):
                self.sentry.tell(*self.canary.commands(self._heard_ms))
            self.sentry.ask()

    def _ping(self) -> None:
        assert self.connection is not None
        self._pinged_ms = self._heard_ms
        self._pings_out += 1
        if self.canary is not None:
            self.canary.pinged()
        self.connection.send(pack(b"PING", self.outlook.sight.server_ms))

    def _look(self, moment_ms: int) -> None:
        """Take in what the sentry found."""
        assert self.sentry is not None
        sight = self.sentry.poll()
        if sight is None:
            if self.sentry.is_asking() and moment_ms - self._asked_ms > self._limit_ms():
                raise RedisUnreachable(f"{self.sentry.connection.address} does not answer to the sentry")
            return
        change, is_news = self.outlook.take(sight, self._asked_ms, self.flags, is_deaf=self.is_deaf)
        others = self.sentry.take_others()
        if others and self.canary is not None:
            before = self.canary.refusal
            self.canary.taken(canary_refusal(others))
            if self.canary.refusal != before:
                _tell(self.canary, self.canary.refusal, self._subscription)
        self.looks_taken = self.looks_asked
        # Also where something has changed: that was after the look before this one.
        if self._is_verified():
            self.watermark_ms = self._asked_for_ms
            self.failures = 0
        if is_news:
            self._changes.append(change)
        if change.is_deaf and self._subscription.redis.set_notifications:
            self.sentry.set_flags(merge_flags(sight.flags or "", self.flags))
        if self._asked_at_pong != self._pongs:
            self._ask()
        else:
            self.is_drained = self._is_draining and not self._pings_out
        if self.canary is None:
            self.is_deaf = change.is_deaf

    def _is_verified(self) -> bool:
        """Tell whether events are known to come, as far as that can be known."""
        canary = self.canary
        if canary is None or canary.is_hopeless or not canary.keys:
            return True
        is_verified, canary.is_verified = canary.is_verified, False
        return is_verified and not self.is_deaf

    def _limit_ms(self) -> int:
        return max(SILENCE_MS_MIN, self._subscription.redis.read_timeout_ms)

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
        """Have ``is_drained`` set once all that is published now was read; False where nobody listens."""
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

    def wait_ms(self, moment_ms: int) -> int:
        """Return how long until something is due that no readable socket announces."""
        if self.phase is Phase.WAITING:
            return max(1, self._due_ms - moment_ms)
        is_looking = self.sentry is not None and self.sentry.is_asking()
        return 5 if is_looking or self.phase is Phase.CONNECTING else PING_MS

    def close(self) -> None:
        """Close the connections, for good unless `lost` says otherwise."""
        if self.connection is not None:
            self.connection.close()
        if self.sentry is not None:
            self.sentry.close()
        self.connection = self.sentry = self._attempt = None
        self._changes.clear()
        self.phase = Phase.CLOSED


def _connect(wanted: Subscription, flags: str) -> tuple[RespConnection, Sentry, Sight]:
    """Connect, in a thread. On a return, see to the flags again: a server that was restarted may have none."""
    connection = RespConnection.open(
        wanted.redis,
        name=wanted.name("subscriber"),
        # Parsing a message costs 0.17 µs in RESP2, 0.22 in RESP3, which alone takes commands beside it.
        protocol=3 if wanted.redis.iam else 2,
        database=wanted.database,
        read_bytes=wanted.read_bytes,
    )
    try:
        if flags:
            see_to_flags(connection, flags, may_set=wanted.redis.set_notifications)
        sentry, sight = Sentry.open(wanted.redis, wanted.name("sentry"), wanted.database)
    except BaseException:
        connection.close()
        raise
    return connection, sentry, sight


def _as_in_resp2(next_reply: Callable[[], Any]) -> Callable[[], Any]:
    """Return what answers a ping with a pong, where the parser has its token alone."""

    def reply() -> Any:
        told = next_reply()
        return [b"pong", told] if isinstance(told, bytes) else told

    return reply


def _tell(canary: Canary, refusal: str, subscription: Subscription) -> None:
    """Say that canaries are refused, or taken again."""
    if not refusal:
        log.info("canary_taken", **subscription.who)
        return
    what = "nobody can tell whether events come" if canary.is_hopeless else "no watermark counts until one is taken"
    log.warning("canary_refused", **subscription.who, refusal=refusal, hint=what)
