"""Keys whose deletion went unheard: a destination still holds them, and a repair, which scans Redis, can't find them.

This runs in a process of the engine that may block. The keys are found by scanning the destination, and marked in the
running engine, which asks Redis once more before it delivers a delete. Nothing is marked before all routes were
searched: past a limit deletions are held until somebody decides (`engine.audit.deletions`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from engine.audit.deletions import (
    NOTHING_HELD,
    Held,
    HeldRoute,
    Judgement,
    Part,
    ServerFacts,
    Trust,
    held_after,
    judge,
    trust_of,
)
from engine.audit.extras import KEYS_AT_ONCE, absent_keys, spared_keys, wanted_keys
from engine.audit.held_file import HeldFile, KeptKeys, hash_of
from engine.audit.options import AuditOptions
from engine.audit.pace import Pace
from engine.audit.run import open_destination
from engine.audit.server import Server
from engine.audit.spool import KeySpool
from engine.audit.verdict import is_absence_known
from engine.clock import monotonic_ms, now_ms
from engine.config import RouteSettings, Settings
from engine.destination.base import Destination
from engine.errors import EngineError
from engine.routing.absence import wants_absence
from engine.routing.events import REPAIR_GONE
from engine.routing.slices import parse_slice

SETTLE_MS = 1_000
"""A key that was deleted just now is on its way: it is looked at again after this long."""

SEGMENTS = 2
TROUBLE_S_MAX = 120.0


class GoneReport(msgspec.Struct, frozen=True):
    """What was found: items ``compared``, keys ``published`` as gone, ``unknown`` ones, and what is ``held``.

    Unknown keys are in a destination, and not in Redis, and may have been evicted or renamed: some route that would
    deliver their delete does not list every event that removes a key. They are left as they are.
    """

    compared: int = 0
    published: int = 0
    unknown: int = 0
    held: dict[str, HeldRoute] = {}


def concerned_routes(routes: Sequence[RouteSettings]) -> list[RouteSettings]:
    """Return the routes whose deletes a comparison can find."""
    return [route for route in routes if route.destination and wants_absence(route.events)]


def publish_gone(settings: Settings, database: int, routes: Sequence[RouteSettings]) -> GoneReport:
    """Mark every key that a route's destination holds and Redis does not, for the engine that listens.

    ``routes`` are all that are in force; those with a destination that deliver deletes are searched, at the pace of
    ``capture.repair_keys_per_s_max``. Raises `EngineError` if a side can't be reached, or nobody listens.
    """
    options = AuditOptions(workers=SEGMENTS, trouble_s_max=TROUBLE_S_MAX)
    return publish_gone_of(settings, database, routes, lambda route: open_destination(route, settings, options))


def publish_gone_of(
    settings: Settings,
    database: int,
    routes: Sequence[RouteSettings],
    destination_of: Callable[[RouteSettings], Destination],
    *,
    settle_ms: int = SETTLE_MS,
    sleep: Callable[[float], None] = time.sleep,
) -> GoneReport:
    """Do so with these destinations."""
    concerned = concerned_routes(routes)
    if not concerned:
        return GoneReport()
    file = HeldFile.of(settings)
    with ExitStack() as stack:
        server = Server(settings, database, "engine-gone")
        stack.callback(server.close)
        before, kept, facts = file.load(), file.load_kept(), server.datasets()
        may_evict = server.may_evict()
        is_spared = spared_keys(routes, may_evict)
        searches = []
        for route in concerned:
            held = before.routes.get(route.name, NOTHING_HELD)
            search = _Search(
                settings,
                route,
                server,
                destination_of(route),
                is_spared if is_absence_known(route, may_evict) else lambda key: True,
                # Deletions that were refused before count again once they are accepted.
                KeptKeys() if held.choice == "accept" else kept.get(route.name, KeptKeys()),
                settle_ms,
                sleep,
            )
            stack.callback(search.close)
            searches.append(search)
        return _Comparison(settings, searches, before, facts).run(file)


def note_dataset(settings: Settings, database: int, routes: Sequence[RouteSettings]) -> None:
    """Keep which datasets the nodes have, if none is known yet, so that their replacement is noticed."""
    file = HeldFile.of(settings)
    if not concerned_routes(routes) or file.load().datasets:
        return
    server = Server(settings, database, "engine-gone")
    try:
        file.know({node: facts.dataset for node, facts in server.datasets().items()})
    finally:
        server.close()


class _Comparison:
    """One comparison of all routes: look, judge, publish, keep what is held."""

    def __init__(
        self, settings: Settings, searches: Sequence[_Search], before: Held, facts: Mapping[str, ServerFacts]
    ) -> None:
        self._share_max = settings.capture.deletions_found_share_max
        self._searches = searches
        self._before = before
        self._facts = facts
        self._trust = trust_of(before.datasets, facts)

    def run(self, file: HeldFile) -> GoneReport:
        """Do it; return what was found."""
        for search in self._searches:
            search.look()
        judged = [(search, self._judge(search)) for search in self._searches]
        staying = [search for search, judgement in judged if judgement is not Judgement.DELETE]
        for search, judgement in judged:
            if judgement is Judgement.DELETE:
                # A mark reaches every route: a route whose deletions are held must not receive marks of its keys.
                search.publish(lambda key: any(other.is_kept(key) for other in self._searches) or _any(staying, key))
            elif judgement is Judgement.KEEP:
                search.keep_all()
        kept = {search.name: KeptKeys(search.kept) for search in self._searches}
        held = {search.name: self._held(search, judgement) for search, judgement in judged}
        known = {node: facts.dataset for node, facts in self._facts.items()}
        file.settle(self._before, Held(routes=held).knowing(known), kept)
        return GoneReport(
            sum(search.compared for search in self._searches),
            sum(search.published for search in self._searches),
            sum(search.unknown for search in self._searches),
            {name: route for name, route in held.items() if route.gone},
        )

    def _judge(self, search: _Search) -> Judgement:
        return judge(self._before_of(search), self._parts(search), self._share_max)

    def _held(self, search: _Search, judgement: Judgement) -> HeldRoute:
        return held_after(self._before_of(search), judgement, self._parts(search), len(search.kept), now_ms())

    def _before_of(self, search: _Search) -> HeldRoute:
        return self._before.routes.get(search.name, NOTHING_HELD)

    def _parts(self, search: _Search) -> list[Part]:
        """Return what was found on each node; a node that has just joined counts like those that are known."""
        nodes = dict.fromkeys([*self._trust, *search.of])
        return [
            Part(search.gone[node], search.of[node], self._trust.get(node.partition("/")[0], Trust())) for node in nodes
        ]


def _any(searches: Sequence[_Search], key: bytes) -> bool:
    return any(search.is_wanted(key) for search in searches)


class _Search:
    """The search for one route.

    ``of`` keys of the route are in its destination, by the node that has them; ``gone`` of them not in Redis, besides
    those that were refused before; ``kept`` are the hashes of the latter.
    """

    def __init__(
        self,
        settings: Settings,
        route: RouteSettings,
        server: Server,
        destination: Destination,
        is_spared: Callable[[bytes], bool],
        kept: KeptKeys,
        settle_ms: int,
        sleep: Callable[[float], None],
    ) -> None:
        self.name = route.name
        is_of_slice = server.slice_test(parse_slice(settings.capture.slice))
        self.is_wanted = wanted_keys(route, server.mapping_prefix(settings), is_of_slice)
        self._server = server
        self._destination = destination
        self._is_spared = is_spared
        self._kept_before = kept
        self._settle_ms = settle_ms
        self._sleep = sleep
        self._pace = Pace(settings.capture.repair_keys_per_s_max)
        self._spool = KeySpool()
        self.kept: set[int] = set()
        self.compared = self.published = self.unknown = 0
        self.of, self.gone = Counter[str](), Counter[str]()

    def look(self) -> None:
        """Find what is gone. A key is looked at twice: one that was deleted just now is on its way."""
        first = KeySpool()
        try:
            for looked in absent_keys(self._destination, self._server, self.is_wanted, SEGMENTS, self._pause):
                self.compared += looked.items
                self.of.update(map(self._server.place_of, looked.live))
                first.add(looked.absent)
            if first.count:
                self._sleep(self._settle_ms / 1_000)
            for keys in first.lists(KEYS_AT_ONCE):
                self._look_again(keys)
        finally:
            first.close()

    def _look_again(self, keys: list[bytes]) -> None:
        absent = self._absent(dict.fromkeys(keys))
        gone = [key for key in absent if not self._is_spared(key)]
        self.unknown += len(absent) - len(gone)
        refused = {key for key in gone if self.is_kept(key)}
        self.kept.update(map(hash_of, refused))
        found = [key for key in gone if key not in refused]
        self.gone.update(map(self._server.place_of, found))
        self._spool.add(found)

    def _absent(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those that the destination still holds and Redis does not."""
        asked = [*keys]
        self._pause(len(asked))
        items = self._destination.get(asked)
        return self._server.absent([key for key, item in items.items() if not item.is_absent])

    def is_kept(self, key: bytes) -> bool:
        """Tell whether somebody refused that this key is deleted."""
        return any(name in self._kept_before for name in self._server.names_of(key))

    def keep_all(self) -> None:
        """Keep everything that was found gone from now on."""
        for keys in self._spool.lists(KEYS_AT_ONCE):
            self.kept.update(map(hash_of, keys))

    def publish(self, stays: Callable[[bytes], bool]) -> None:
        """Mark everything that was found gone and still is, except what stays."""
        for keys in self._spool.lists(KEYS_AT_ONCE):
            gone = [key for key in self._absent(keys) if not stays(key)]
            unheard = self._server.mark(gone, REPAIR_GONE)
            self.published += len(gone) - unheard
            if unheard:
                raise EngineError("nobody listens to the marks of keys that are gone", hint="it is retried")

    def _pause(self, keys: int) -> None:
        wait_ms = self._pace.spend(keys, monotonic_ms())
        if wait_ms:
            self._sleep(wait_ms / 1_000)

    def close(self) -> None:
        """Free the space."""
        self._spool.close()
