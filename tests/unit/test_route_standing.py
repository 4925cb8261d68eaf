"""How a route is: what waits, since when, why deliveries fail; and all invokers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.dispatch import Burial
from engine.delivery.standing import standings_of
from engine.lifecycle import RouteStanding, Standings, channel_pair
from engine.model import Failure, Outcome
from engine.supervision.report import merge
from tests.lane_bench import ROUTE, UNIX_MS, lane_kit
from tests.unit.test_route_lane import RAISED, Bench

Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    with lane_kit(tmp_path / "backlog", monkeypatch) as kit:
        yield lambda **options: Bench(kit, msgspec.structs.replace(ROUTE, **options))


def standing(bench: Bench, at_ms: int = 0) -> RouteStanding:
    (found,) = standings_of([bench.lane], bench.kit.backlog, at_ms, UNIX_MS + at_ms)
    return found


def test_a_route_at_rest_has_nothing_to_say(make: Make) -> None:
    """Nothing waits, nothing has failed."""
    assert standing(make()) == RouteStanding(ROUTE.name)


def test_what_waits_and_since_when(make: Make) -> None:
    """The oldest change counts wherever its key is: waiting, in flight, behind a retry."""
    bench = make(batch_size=2, parallelization_factor=1)
    for number, key in enumerate((b"a", b"b", b"c")):
        bench.mark(key, captured_ms=UNIX_MS - 900 + number * 100)
    assert standing(bench).oldest_ms == UNIX_MS - 900
    batch = bench.send()
    found = standing(bench)
    assert (found.keys_waiting, found.keys_in_flight, found.oldest_ms) == (1, 2, UNIX_MS - 900)
    bench.end(batch, RAISED, 5)
    assert standing(bench, 5).oldest_ms == UNIX_MS - 900
    bench.end(bench.send(at_ms=60_000), Outcome(), 60_005)
    assert standing(bench, 60_005).keys_in_flight + standing(bench, 60_005).keys_waiting == 1


def test_a_failing_route_says_why_and_since_when(make: Make) -> None:
    """The first failure in a row dates it, the last one names it; a success ends it, and the error stays to be read."""
    bench = make(batch_size=1)
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 1_000)
    found = standing(bench, 1_500)
    assert found.failing_since_ms == UNIX_MS + 1_000
    assert (found.error, found.error_ms) == ("function_error: raised", UNIX_MS + 1_000)
    bench.end(bench.send(at_ms=60_000), Outcome(Failure.TIMEOUT, reason="slow"), 61_000)
    found = standing(bench, 61_000)
    assert (found.failing_since_ms, found.error) == (UNIX_MS + 1_000, "timeout: slow")
    bench.end(bench.send(at_ms=200_000), Outcome(), 200_001)
    found = standing(bench, 200_001)
    assert (found.failing_since_ms, found.error, found.oldest_ms) == (0, "timeout: slow", 0)


def test_a_route_with_nothing_left_does_not_fail(make: Make) -> None:
    """Once all that failed is kept as dead letters the route is at rest, and what fails later is dated by itself."""
    bench = make(batch_size=1, maximum_retry_attempts=0)
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 1_000)
    assert standing(bench, 1_500).failing_since_ms == UNIX_MS + 1_000
    burial = bench.jobs[-1]
    assert isinstance(burial, Burial)
    bench.lane.buried(burial, "", 2_000)
    found = standing(bench, 2_500)
    assert (found.failing_since_ms, found.oldest_ms, found.error) == (0, 0, "function_error: raised")
    bench.mark(b"b", captured_ms=UNIX_MS + 3_000)
    bench.end(bench.send(at_ms=60_000), RAISED, 61_000)
    assert standing(bench, 61_500).failing_since_ms == UNIX_MS + 61_000


def test_a_route_whose_failed_keys_went_does_not_fail(make: Make) -> None:
    """Where what failed is settled without a word of the target, nothing waits for it."""
    bench = make(batch_size=1)
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 1_000)
    assert standing(bench, 1_500).failing_since_ms == UNIX_MS + 1_000
    bench.lane.keys.settle([entry for _, _, batch in bench.lane.keys.retries for entry in batch.entries])
    assert bench.lane.keys.is_idle()
    assert standing(bench, 1_500).failing_since_ms == 0


def test_the_lag_of_a_failing_route_is_never_younger_than_its_failure(make: Make) -> None:
    """Of keys that are on disk because they fail, nobody knows the age: what failed first has waited since then."""
    bench = make(batch_size=1)
    bench.mark(b"a")
    bench.end(bench.send(), RAISED, 1_000)
    bench.lane.keys.clear()
    bench.mark(b"b", captured_ms=UNIX_MS + 5_000)
    assert standing(bench, 9_000).oldest_ms == UNIX_MS + 1_000


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    backlog = Backlog(str(tmp_path / "backlog"), 0, 1, 1 << 26)
    assert backlog.open() == ""
    yield backlog
    backlog.close()


def test_since_when_keys_wait_on_disk(backlog: Backlog, tmp_path: Path) -> None:
    """The oldest that is put there counts until none is left, also after a restart; keys set aside count apart."""
    aside = BacklogRow(b"z", "hset", 1, 0, 5, "items: no")
    assert backlog.put("carts", [BacklogRow(b"a", "hset", 700), BacklogRow(b"b", "hset", 500), aside]) == ""
    assert (backlog.ages.of("carts"), backlog.ages.of("others")) == (500, 0)
    assert (backlog.keys_set_aside("carts"), backlog.keys_set_aside("others")) == (1, 0)
    backlog.flush()
    again = Backlog(str(tmp_path / "backlog"), 0, 1, 1 << 26)
    backlog.close()
    assert again.open() == ""
    assert again.ages.of("carts") == 500
    again.remove("carts", [b"a", b"b", b"z"])
    again.flush()
    assert again.ages.of("carts") == 0
    assert again.put("carts", [BacklogRow(b"c", "hset", 900)]) == ""
    assert again.ages.of("carts") == 900
    again.close()


def test_all_invokers_together() -> None:
    """Counts add up, the oldest is the oldest of all, and an invoker that fails now names the error."""
    well = RouteStanding("r", 1, 2, 3, 1, oldest_ms=50, error="old: x", error_ms=99)
    bad = RouteStanding("r", 10, 20, 30, oldest_ms=70, failing_since_ms=60, error="new: y", error_ms=80)
    idle = RouteStanding("r")
    assert merge("r", [well, bad, idle]) == RouteStanding(
        "r", 11, 22, 33, 1, oldest_ms=50, failing_since_ms=60, error="new: y", error_ms=80
    )
    assert merge("r", []) == idle


def test_a_supervisor_that_does_not_read_holds_up_nobody() -> None:
    """A standing is left out rather than waited for; what was sent arrives whole."""
    ours, theirs = channel_pair()
    message = Standings((RouteStanding("r", error="x" * 10_000),))
    sent = 0
    while theirs.has_room():
        assert theirs.send(message)
        sent += 1
        assert sent < 1_000
    assert ours.receive() == [message] * sent
    assert theirs.has_room()
    ours.close()
    theirs.close()
