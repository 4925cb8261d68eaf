"""Keys of a feed that passes no longer find: how many there may be, and when their names are forgotten."""

from __future__ import annotations

from engine.capture.feed.subscription import Subscription
from engine.capture.own_keys import is_own
from engine.capture.shared import Shared
from engine.capture.sources.scan.sweep import Sweep
from engine.clock import now_ms
from engine.digests.names import Names, NamesBroken, path_of
from engine.model import RouteMask
from engine.observe.logs import get_logger
from engine.routing.absence import follows_evictions, wants_absence
from engine.routing.events import REPAIR_GONE

log = get_logger(__name__)

GONE_ALWAYS = 100
"""This many keys may be found gone at a time, whatever share that is."""
GONE_AT_ONCE = 1_000


def is_held(gone: int, known: int, there: int, share_max: float) -> bool:
    """Tell whether this many missing keys, of the ``known`` ones, are too many to be deleted.

    ``there`` is how many the node has: if it came back empty, it has forgotten them, and nobody deleted them.
    """
    if not gone or share_max >= 1:
        return False
    return not there or (gone > GONE_ALWAYS and gone > share_max * known)


class Departed:
    """One feed's. Raises `NamesBroken` if the disk refuses."""

    def __init__(self, shared: Shared, subscription: Subscription) -> None:
        self._shared = shared
        self._subscription = subscription
        self._names: Names | None = None
        self._last: bytes | None = None
        """The name that was marked last."""
        self._judged = 0
        """The pass that was judged last."""
        self._unsettled: list[int] = []
        """Passes whose marks may not be settled."""
        self.take_routes()

    def take_routes(self) -> None:
        """Mark for the routes that all share now."""
        table = self._shared.table
        self._wants = table.for_deletes().mask
        routes = table.routes.items()
        self._follows: RouteMask = sum(1 << slot for slot, route in routes if follows_evictions(route.events))
        self._is_wanted = any(wants_absence(route.events) for _, route in routes)

    def follow(self, subscription: Subscription) -> None:
        """Be this feed from now on."""
        if subscription.feed.node.id != self._subscription.feed.node.id:
            self.close()
        self._subscription = subscription

    def is_named(self, key: bytes) -> bool:
        """Tell whether a route wants to know when this key is gone."""
        return bool(self._wants(key)) and not is_own(key)

    def names(self) -> Names | None:
        """Return the names, opened if necessary; None if no route wants to know about removed keys."""
        if not self._is_wanted:
            return None
        if self._names is None:
            self._names = Names(path_of(self._shared.scope.names_folder), self._subscription.feed.node.number)
        return self._names

    def mark(self, sweep: Sweep) -> bool:
        """Mark the next keys that a pass did not find; return True once that was all of them."""
        names = self._names
        if not sweep.gone or names is None:
            return True
        if self._judged != sweep.number:
            self._judged, self._last = sweep.number, None
            if is_held(sweep.gone, sweep.known, sweep.there, self._shared.scope.capture.deletions_found_share_max):
                self._hold(sweep, names)
                return True
        dirty = self._shared.dirty
        keys = names.gone_after(self._last, GONE_AT_ONCE, sweep.number)
        # A key that is dirty keeps its event, which says nothing of that.
        if any(dirty.holds(key) for key in keys):
            return False
        wants, follows = self._wants, self._follows
        mask_of = (lambda key: wants(key) & follows) if sweep.may_evict else wants
        _, left = dirty.mark(keys, mask_of, REPAIR_GONE, now_ms())
        if left:
            # There is no room: some of them are marked twice.
            return False
        self._last = keys[-1] if keys else self._last
        if len(keys) == GONE_AT_ONCE:
            return False
        self._unsettled.append(sweep.number)
        return True

    def _hold(self, sweep: Sweep, names: Names) -> None:
        """Let the destination keep what this pass did not find; the next one looks for it again."""
        log.error(
            "deletions_held", **self._subscription.who, gone=sweep.gone, of=sweep.known,
            hint="the destination keeps them; if they are right, start once with "
            "capture.deletions_found_share_max = 1",
        )  # fmt: skip
        names.spare(sweep.number)
        sweep.gone = 0

    def forget_settled(self) -> None:
        """Forget the names of keys whose deletion is settled in all rings."""
        settled = self._shared.settled_mark(self._subscription.feed.node.number) if self._unsettled else 0
        while self._unsettled and self._unsettled[0] <= settled:
            number = self._unsettled.pop(0)
            if self._names is not None:
                try:
                    self._names.forget(number)
                except NamesBroken as error:
                    # They are found gone once more.
                    log.error("names_not_forgotten", error=error.message)

    def close(self) -> None:
        """Close the file."""
        if self._names is not None:
            self._names.close()
            self._names = None
