"""What a destination holds and Redis does not: the destination's parallel scan, and a question for each key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from engine.audit.server import Server
from engine.audit.verdict import is_absence_known
from engine.config import RouteSettings
from engine.destination.base import Destination, Item
from engine.routing.absence import wants_absence
from engine.routing.glob import matcher

KEYS_AT_ONCE = 500
"""Of one pipeline of ``EXISTS``."""

_Page = list[Item | None]


@dataclass(frozen=True, slots=True)
class Looked:
    """A part of the scan: how many items it had, how many are not keys of the route, and keys that Redis lacks.

    ``live`` are the keys of the route that are not tombstones.
    """

    items: int
    foreign: int
    live: list[bytes]
    absent: list[bytes]


def wanted_keys(
    route: RouteSettings, mapping_prefix: str, is_of_slice: Callable[[bytes], bool] = lambda key: True
) -> Callable[[bytes], bool]:
    """Return the test whether the route delivers a key here; the original's mapping hashes are never delivered."""
    matches, prefix = matcher([pattern.encode() for pattern in route.keys]), mapping_prefix.encode()
    return lambda key: bool(matches(key)) and is_of_slice(key) and not (prefix and key.startswith(prefix))


def spared_keys(routes: Iterable[RouteSettings], may_evict: bool) -> Callable[[bytes], bool]:
    """Return the test whether a key must not be marked as gone, though it is.

    A mark reaches every route that delivers deletes (`RouteTable.for_deletes`). One that does not listen to every kind
    of removal would delete what it was told to keep.
    """
    unsure = [route for route in routes if wants_absence(route.events) and not is_absence_known(route, may_evict)]
    tests = [matcher([pattern.encode() for pattern in route.keys]) for route in unsure]
    return lambda key: any(matches(key) for matches in tests)


def absent_keys(
    destination: Destination,
    server: Server,
    is_wanted: Callable[[bytes], bool],
    segments: int,
    pause: Callable[[int], None],
) -> Iterator[Looked]:
    """Yield the wanted keys that the destination holds and the server lacks; ``pause`` is called for each part."""
    with ThreadPoolExecutor(segments, "audit-scan") as pool:
        for page in _pages(destination, segments, pool):
            wanted = [item for item in page if item is not None and is_wanted(item.key)]
            foreign = len(page) - len(wanted)
            live = [item.key for item in wanted if not item.is_absent]
            for start in range(0, max(len(live), 1), KEYS_AT_ONCE):
                keys = live[start : start + KEYS_AT_ONCE]
                pause(len(keys))
                is_first = start == 0
                absent = server.absent(keys)
                yield Looked(len(page) if is_first else 0, foreign if is_first else 0, keys, absent)


def _pages(destination: Destination, segments: int, pool: ThreadPoolExecutor) -> Iterator[_Page]:
    """Yield the pages of all segments as they arrive; each segment is at most one page ahead."""
    scans = [destination.scan(segment, segments) for segment in range(segments)]
    futures: dict[Future[_Page | None], Iterator[_Page]] = {pool.submit(next, scan, None): scan for scan in scans}
    try:
        while futures:
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                scan, page = futures.pop(future), future.result()
                if page is not None:
                    futures[pool.submit(next, scan, None)] = scan
                    yield page
    finally:
        for future in futures:
            future.cancel()
