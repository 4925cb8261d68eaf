"""Keys of several databases: each in exactly one feed, whatever its name; none of a database that is not captured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.routing.assignment import assign
from engine.routing.databases import Databases, in_words, inside, split
from engine.routing.glob import matcher
from engine.routing.nodes import Topology
from engine.routing.slices import Slice

numbers = st.sets(st.integers(0, 300), min_size=2, max_size=40).map(lambda some: tuple(sorted(some)))
NASTY = (
    b"",
    b":",
    b"__:",
    b"a__:b",
    b"@3__:",
    b"3__:x",
    b"__keyspace@1__:x",
    b"*",
    b"[",
    b"\\",
    b"-",
    b"\x7f",
    b"\x80",
)
names = (
    st.sampled_from(NASTY)
    | st.binary(max_size=6)
    | st.tuples(st.sampled_from(NASTY), st.binary(max_size=2)).map(b"".join)
)


@given(numbers, st.integers(0, 310), names, st.integers(1, 4), st.integers(1, 3))
def test_each_key_is_in_one_feed(
    captured: tuple[int, ...], database: int, name: bytes, shards: int, hosts: int
) -> None:
    """Over all shards of all hosts, one pattern matches a key's channel; none where its database is not captured."""
    channel = b"__keyspace@%d__:%b" % (database, name)
    patterns = [
        pattern
        for index in range(hosts)
        for feeds in assign(Topology(), shards, Slice(index, hosts), databases=Databases(captured, captured[0]))
        for feed in feeds
        for pattern in feed.patterns
    ]
    found = sum(bool(matcher([pattern])(channel)) for pattern in patterns)
    assert found == (database in captured)


@given(numbers)
def test_patterns_are_few(captured: tuple[int, ...]) -> None:
    """A shard has a pattern for each ten neighbouring databases, not for each database."""
    heads = Databases(captured, captured[0]).heads()
    assert len(heads) == len({number // 10 if number > 9 else -1 for number in captured})


@given(st.integers(0, 2**31 - 1), names)
def test_a_key_is_taken_apart_as_it_was_made(database: int, name: bytes) -> None:
    """The number ends at the first mark, so no name is mistaken for another."""
    assert split(inside(database, name)) == (database, name)


def test_numbers_for_people() -> None:
    """Runs are written as such."""
    assert in_words((0, 1, 3, 4, 5, 9)) == "0, 1, 3-5, 9"
