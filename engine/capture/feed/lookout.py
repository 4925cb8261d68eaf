"""What events do not tell a feed: what the sentry's looks and the canaries of its node add up to.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.capture.feed.canary import Canary
from engine.capture.feed.subscription import Subscription
from engine.capture.notifications import canary_refusal
from engine.capture.own_keys import tag_of
from engine.capture.watch.membership import Membership
from engine.capture.watch.outlook import Outlook
from engine.capture.watch.sight import Change, Sight
from engine.observe.logs import get_logger
from engine.routing.routes import merge_flags

log = get_logger(__name__)


class Lookout:
    """One feed's, over all of its connections.

    ``flags`` are the notification flags that the subscription lives on; the owner changes them with the routes.
    """

    def __init__(self, subscription: Subscription, flags: str) -> None:
        self.flags = flags
        self.outlook = Outlook()
        self.canary: Canary | None = None
        """Only where the server does not tell its flags."""
        self.own_keys: set[bytes] = set()
        """Keys of the engine's own that events may name."""
        self.is_deaf = False
        """Whether the server does not send what the routes need, and we may not set it."""
        self.missing_flags = ""
        """What to set, as of the newest look; "" if nothing lacks, or we may not."""
        self.has_resigned = False
        """Whether ``redis.url`` alone led here, to a primary, and it is none any more."""
        self._subscription = subscription
        self._membership = Membership(subscription.feed.node)
        self._was_misplaced = False
        self._changes: list[Change] = []
        self._news: list[str] = []

    @property
    def role(self) -> bytes:
        """Return the server's role in replication as of the newest look, b"" if it is unknown."""
        return self.outlook.sight.role

    @property
    def has_found(self) -> bool:
        """Tell whether there are changes or news to take."""
        return bool(self._changes or self._news)

    def take_news(self) -> list[str]:
        """Return why the nodes should be asked for, as seen since the last time."""
        news, self._news = self._news, []
        return news

    def take_changes(self) -> list[Change]:
        """Return what the sentry saw since the last time."""
        changes, self._changes = self._changes, []
        return changes

    def forget(self) -> None:
        """Drop what a connection has shown that is lost: all of that is in its gap."""
        self._changes.clear()

    def begin(self, sight: Sight, moment_ms: int) -> bytes:
        """Take the first look of a connection; return the packed command that lets canaries be heard, b"" for none."""
        self._note_membership(sight, moment_ms)
        self.outlook.begin(sight)
        self.is_deaf = self._was_misplaced = False
        return self._set_up_canary()

    def follow(self, subscription: Subscription) -> bytes:
        """Look after this from now on, over the same connection; return what `begin` does."""
        before, self._subscription = self._subscription, subscription
        self._membership.follow(subscription.feed.node)
        is_elsewhere = before.keepsake_key != subscription.keepsake_key
        return self._set_up_canary() if is_elsewhere and self.canary is not None else b""

    def _set_up_canary(self) -> bytes:
        """Have a canary in a slot of the node, where the server does not tell its flags."""
        subscription = self._subscription
        self._are_own(subscription.keepsake_key)
        if self.outlook.sight.flags is not None:
            self.canary = None
            return b""
        self.canary = Canary(subscription.database, self.flags, tag_of(subscription.feed.node))
        self._are_own(*self.canary.keys)
        return self.canary.subscription() if self.canary.keys else b""

    def _are_own(self, *names: bytes) -> None:
        """Know these keys for an engine's own, in whichever database another engine has its."""
        databases = self._subscription.databases
        self.own_keys.update(databases.inside(number, name) for number in databases.numbers for name in names)

    def _note_membership(self, sight: Sight, moment_ms: int) -> None:
        reason = self._membership.take(self.outlook.sight, sight, moment_ms)
        if reason:
            self._news.append(reason)

    def is_canary_refused(self, refusal: str) -> bool:
        """Take in a refusal of one who listens: it is the canary's channel that we may not hear, if there is one."""
        if self.canary is None:
            return False
        self.canary.give_up()
        self._tell(self.canary, refusal)
        return True

    def pinged(self) -> None:
        """Note that a ping was sent."""
        if self.canary is not None:
            self.canary.pinged()

    def heard(self, event: bytes) -> None:
        """Note an event of a canary."""
        if self.canary is not None:
            self.canary.heard(event)

    def are_events_missing(self) -> bool:
        """See, now that all pings are answered, whether events of the canary did not come."""
        canary = self.canary
        if canary is None:
            return False
        missing = canary.ponged()
        if missing and not self.is_deaf:
            self._changes.append(Change((f"the server no longer sends events: {missing}",), is_deaf=True))
        elif canary.is_verified and self.is_deaf:
            self._changes.append(Change(("the server sends events again",)))
        self.is_deaf = bool(missing) or (self.is_deaf and not canary.is_verified)
        return bool(missing)

    def take(self, sight: Sight, others: Sequence[object], asked_ms: int, moment_ms: int) -> bool:
        """Take in a look, and what the server said to canaries; return whether a watermark counts.

        It does also where something has changed: that was after the look before this one.
        """
        self._note_membership(sight, moment_ms)
        self.has_resigned = self._membership.has_resigned(self.outlook.sight, sight)
        change, is_news = self.outlook.take(sight, asked_ms, self.flags, is_deaf=self.is_deaf)
        if others and self.canary is not None:
            self._hear_of_canary(self.canary, canary_refusal(others))
        was_misplaced, self._was_misplaced = self._was_misplaced, self._membership.is_misplaced
        if was_misplaced and not self._was_misplaced:
            # It is again what the feed takes it for: all since then may be missed.
            reasons = ("the node's role had changed", *change.reasons)
            self._changes.append(replace(change, reasons=reasons, is_dataset=True))
        elif is_news and not self._was_misplaced:
            self._changes.append(change)
        counts = self._is_verified() and not (was_misplaced or self._was_misplaced)
        may_set = change.is_deaf and self._subscription.redis.set_notifications
        self.missing_flags = merge_flags(sight.flags or "", self.flags) if may_set else ""
        if self.canary is None:
            self.is_deaf = change.is_deaf
        return counts

    def _hear_of_canary(self, canary: Canary, refusal: str) -> None:
        before = canary.refusal
        canary.taken(refusal)
        if canary.refusal == before:
            return
        self._tell(canary, canary.refusal)
        if canary.refusal.startswith("MOVED"):
            self._news.append("a slot moved to another node")

    def _is_verified(self) -> bool:
        """Tell whether events are known to come, as far as that can be known."""
        canary = self.canary
        if canary is None or canary.is_hopeless or not canary.keys:
            return True
        is_verified, canary.is_verified = canary.is_verified, False
        return is_verified and not self.is_deaf

    def _tell(self, canary: Canary, refusal: str) -> None:
        """Say that canaries are refused, or taken again."""
        who = self._subscription.who
        if not refusal:
            log.info("canary_taken", **who)
            return
        what = (
            "it is unknown whether events arrive" if canary.is_hopeless else "no watermark counts until one is accepted"
        )
        log.warning("canary_refused", **who, refusal=refusal, hint=what)
