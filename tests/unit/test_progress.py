from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.config import RouteSettings
from engine.model import EVERY_ROUTE, NOTHING_HEARD, THE_BEGINNING_MS, Missed, Watermark
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.supervision.progress.checkpoint import Checkpoint
from engine.supervision.progress.progress import RESTART_INTERVALS, Progress

NOW_MS = 50_000
FOUND = Checkpoint("here", 40_000, 7, 1_000, ("carts",), is_clean=False)
WHOLE = Topology()
FEEDS = assign(WHOLE, 1)


def table(*names: str, whole: str = "", previous: RouteTable | None = None) -> RouteTable:
    """Return a table of these routes; the one called ``whole`` begins with the whole keyspace."""
    routes = [
        RouteSettings(name=name, function="f", starting_position="TRIM_HORIZON" if name == whole else "LATEST")
        for name in names
    ]
    return RouteTable.build(routes, previous)


def begin(found: Checkpoint | None, *names: str, whole: str = "", is_lost: bool = False) -> Progress:
    routes = table(*(names or ("carts",)), whole=whole)
    return Progress("here", found, routes, {"": NOW_MS}, is_lost=is_lost, topology=WHOLE, feeds=FEEDS)


def at_start(progress: Progress) -> tuple[Missed, ...]:
    """Return what the one subscriber has to find of the one node."""
    return progress.missed_at_start(0).get(0, ())


def by_successor(progress: Progress, heard: Missed = NOTHING_HEARD) -> tuple[Missed, ...]:
    return progress.missed_by(0, lambda shard, node: (0, heard)).get(0, ())


def advance(progress: Progress, watermarks: list[Watermark]) -> None:
    """Take in these watermarks, a ring each; what was heard since has the newest one's mark."""
    mark = watermarks[0].server_mark if watermarks else 0
    progress.advance(lambda shard, node: watermarks, lambda shard, node: (0, Missed(1, mark)))


def watermark_ms(progress: Progress) -> int:
    (node,) = progress.nodes.all()
    return node.settled.since_ms


def test_a_first_start_has_missed_nothing() -> None:
    """Without a checkpoint the engine begins now, and looks for nothing that was before."""
    progress = begin(None)
    assert progress.is_first and progress.is_clean
    assert at_start(progress) == ()
    assert (watermark_ms(progress), progress.version_floor) == (NOW_MS, 0)


def test_a_checkpoint_of_another_server_is_none() -> None:
    """What was settled elsewhere says nothing of this server."""
    elsewhere = Checkpoint("elsewhere", 40_000, 7, 1_000, ("carts",))
    assert begin(elsewhere).is_first


def test_a_checkpoint_of_another_slice_means_the_whole_slice() -> None:
    """Where the same server was cut otherwise, nobody here has listened to what is in the slice now."""
    other = Checkpoint("here slice 0/3", 40_000, 7, 1_000, ("carts",), is_clean=True)
    progress = begin(other)
    assert at_start(progress) == (Missed(THE_BEGINNING_MS, 0, 1),)
    assert not progress.is_first
    assert progress.version_floor >= 1_000


def test_a_restart_finds_what_came_since_the_checkpoint() -> None:
    """The first subscribers look for what changed since, and for nothing before."""
    progress = begin(FOUND)
    assert at_start(progress) == (Missed(40_000, 7, 1),)
    assert not progress.is_first
    assert not progress.is_clean


def test_a_checkpoint_that_is_lost_means_the_whole_keyspace() -> None:
    """Where a checkpoint was and can't be read, everything may be missing, and something may be in flight."""
    progress = begin(None, is_lost=True)
    assert at_start(progress) == (Missed(THE_BEGINNING_MS, 0, 1),)
    assert not progress.is_first
    assert not progress.is_clean


def test_versions_go_on_above_those_of_before() -> None:
    """After an end in order from the last version; after a crash above all that an interval may have given out."""
    clean = Checkpoint("here", 40_000, 7, 1_000, ("carts",), is_clean=True)
    assert begin(clean).version_floor == 1_000
    assert begin(FOUND).version_floor == 1_000 + RESTART_INTERVALS * 1_000_000
    assert begin(FOUND).checkpoint(0, NOW_MS, 0, is_clean=False).version >= 1_000


def test_versions_that_nobody_gave_out_yet_count_as_time_passes() -> None:
    """A node reads again after a minute, and all crash: the next version was a minute higher, and none goes back."""
    progress = begin(FOUND)
    assert progress.checkpoint(5_000_000, NOW_MS, 100, is_clean=False).version == 5_000_000
    assert progress.checkpoint(5_000_000, NOW_MS, 60_100, is_clean=False).version == 65_000_000
    assert progress.checkpoint(65_000_001, NOW_MS, 60_200, is_clean=False).version == 65_000_001
    assert progress.checkpoint(65_000_001, NOW_MS, 99_000, is_clean=True).version == 65_000_001


def test_a_ring_that_has_told_nothing_holds_all_up() -> None:
    """The watermark is that of the slowest ring; until every ring has one, it stays."""
    progress = begin(FOUND)
    advance(progress, [Watermark(45_000, 7), Watermark(0, 0)])
    assert watermark_ms(progress) == 40_000
    advance(progress, [Watermark(0, 0)])
    assert watermark_ms(progress) == 40_000
    advance(progress, [Watermark(45_000, 7), Watermark(44_000, 7)])
    assert watermark_ms(progress) == 44_000


def test_a_mark_counts_only_where_all_agree() -> None:
    """Idle times are believed by a mark that the server had all the time between the oldest and the newest look."""
    progress = begin(FOUND)
    advance(progress, [Watermark(45_000, 7), Watermark(44_000, 7)])
    assert by_successor(progress) == (Missed(44_000, 7),)
    advance(progress, [Watermark(46_000, 8), Watermark(45_000, 7)])
    assert by_successor(progress) == (Missed(45_000, 0),)


def test_a_successor_begins_where_the_last_one_had_heard() -> None:
    """What a subscriber had marked is in the rings; one that had heard nothing leaves all since the watermark."""
    progress = begin(FOUND)
    assert by_successor(progress, Missed(48_000, 9, clock_ms=5)) == (Missed(48_000, 9, clock_ms=5),)
    assert by_successor(progress) == (Missed(40_000, 7),)


def test_a_route_that_begins_with_the_whole_keyspace_has_it_once() -> None:
    """It is asked for until a watermark is younger than its beginning, through restarts, and never again."""
    progress = begin(FOUND, "carts", "people", whole="people")
    (slot,) = [
        slot for slot, route in table("carts", "people", whole="people").routes.items() if route.name == "people"
    ]
    everything = Missed(THE_BEGINNING_MS, 0, 1 << slot)
    assert at_start(progress) == (Missed(40_000, 7, EVERY_ROUTE & ~(1 << slot) & 0b11), everything)
    advance(progress, [Watermark(NOW_MS, 7)])
    assert everything in by_successor(progress, Missed(48_000, 9, clock_ms=5))
    kept = progress.checkpoint(0, NOW_MS, 0, is_clean=False)
    assert kept.routes == ("carts",)
    assert everything in at_start(begin(kept, "carts", "people", whole="people"))
    advance(progress, [Watermark(NOW_MS + 1, 7)])
    assert by_successor(progress, Missed(48_000, 9, clock_ms=5)) == (Missed(48_000, 9, clock_ms=5),)
    kept = progress.checkpoint(0, NOW_MS, 0, is_clean=False)
    assert kept.routes == ("carts", "people")
    assert everything not in at_start(begin(kept, "carts", "people", whole="people"))


def test_a_route_that_went_is_forgotten() -> None:
    """A route of the same name that comes after it begins anew."""
    progress = begin(FOUND, "carts", "people")
    progress.take_routes(table("people"), {"": NOW_MS})
    assert progress.checkpoint(0, NOW_MS, 0, is_clean=False).routes == ("people",)


@given(
    looks=st.lists(
        st.lists(
            st.builds(Watermark, st.integers(0, 100_000), st.integers(0, 2), st.just(0), st.just(0)),
            min_size=3,
            max_size=3,
        ),
        max_size=8,
    )
)
def test_a_checkpoint_never_runs_ahead_of_a_ring(looks: list[list[Watermark]]) -> None:
    """Whatever the rings say, what is kept is no newer than what each of them had settled."""
    progress, expected = begin(FOUND), 40_000
    for watermarks in looks:
        advance(progress, watermarks)
        lowest = min(watermark.moment_ms for watermark in watermarks)
        expected = lowest or expected
        kept = progress.checkpoint(5, NOW_MS, 0, is_clean=False)
        assert kept.watermark_ms == expected
        assert watermark_ms(begin(kept)) == expected
