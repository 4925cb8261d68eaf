from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import hiredis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.capture.dirty import DirtyKeys, Intake, interests
from engine.capture.feed.listener import Listener, Phase
from engine.capture.feed.subscription import Subscription
from engine.config import RedisSettings, RouteSettings
from engine.delivery.reading.questions import EXISTS, TYPE, Fetched, interpret_all
from engine.errors import RedisError
from engine.redis.address import Address
from engine.redis.connection import UNPARSABLE, RespConnection
from engine.redis.credentials import Credentials
from engine.routing.routes import RouteTable
from tests.capture_rig import feed_of
from tests.shard_plan import plan_shards

PREFIX = b"__keyspace@0__:"
MAPPING = b"map:"
KEY_BYTES_MAX = 200
TABLE = RouteTable.build(
    [
        RouteSettings(name="carts", function="f", keys=("cart:*",), events=("hset", "del")),
        RouteSettings(name="all", function="g", events=("hset",)),
    ]
)
WANTED = interests(TABLE)
KINDS = ["hash", "string", "list", "set", "zset", "stream", "json", TYPE, EXISTS]
FUZZ = settings(max_examples=400, deadline=None, derandomize=True)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def of(sign: bytes, parts: list[bytes], per_part: int = 1) -> bytes:
    return b"%s%d\r\n%s" % (sign, len(parts) // per_part, b"".join(parts))


words = st.one_of(st.sampled_from([b"", b"pmessage", b"pong", b"psubscribe", b"hset", b"hash"]), st.binary(max_size=12))
scalars = st.one_of(
    words.map(bulk),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",nan\r\n", b",inf\r\n"]),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.integers(-(2**80), 2**80).map(lambda number: b"(%d\r\n" % number),
    st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b"-WRONGTYPE x\r\n", b"=7\r\ntxt:abc\r\n", b"+pmessage\r\n"]),
)


def nest(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lists = st.lists(inner, max_size=5)
    maps = st.lists(st.tuples(inner, inner), max_size=3)
    return st.one_of(
        st.builds(of, st.sampled_from([b"*", b"~", b">"]), lists),
        maps.map(lambda pairs: of(b"%", [part for pair in pairs for part in pair], 2)),
    )


nested = st.recursive(scalars, nest, max_leaves=8)


@st.composite
def any_value(draw: st.DrawFn) -> bytes:
    return draw(nested)


values = any_value()
keys = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"", b"cart:1", b"cart:\xff", b"map:x", b"k" * 300, b"*4\r\n$8\r\npm"])
)
events = st.sampled_from([b"hset", b"del", b"expire", b"repair", b"repair_gone", b""])
messages = st.builds(
    lambda key, event: of(b"*", [bulk(b"pmessage"), bulk(b"*"), bulk(PREFIX + key), bulk(event)]), keys, events
)
near_messages = st.lists(st.one_of(scalars, values), min_size=3, max_size=4).map(
    lambda parts: of(b"*", [bulk(b"pmessage"), *parts])
)
answers = st.one_of(
    st.integers(0, 2**60).map(lambda number: of(b"*", [bulk(b"pong"), bulk(b"%d" % number)])),
    st.just(of(b"*", [bulk(b"psubscribe"), bulk(b"*"), b":1\r\n"])),
)
kinds_asked = st.lists(st.sampled_from(KINDS), max_size=8)
streams = st.lists(st.one_of(messages, messages, answers, near_messages, values), max_size=12)


def damaged(data: bytes, seed: int, blows: int) -> bytes:
    """Return the bytes with some of them flipped, cut, doubled or replaced."""
    rng = random.Random(seed)
    for _ in range(blows if data else 0):
        at = rng.randrange(len(data))
        size = min(rng.randrange(1, 9), len(data) - at)
        data = rng.choice(
            [
                data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
                data[:at] + data[at + size :],
                data[:at] + data[at : at + size] + data[at:],
                data[:at] + rng.randbytes(size) + data[at + size :],
                data[:at] + rng.choice([b"\r\n", b"*4\r\n", b"$5\r\n", b"%1\r\n*0\r\n", b"$-1\r\n"]) + data[at:],
                data[:at],
            ]
        )
        if not data:
            break
    return data


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Yield the bytes as reads may bring them."""
    rng = random.Random(seed)
    while data:
        size = rng.choice([1, 2, 7, 50, 10_000])
        yield data[:size]
        data = data[size:]


def told_by(data: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the (key, event) of each message that the parser finds in all the bytes at once, and whether it fails."""
    reader = hiredis.Reader()
    reader.feed(data)
    found = []
    falses = data.count(b"#f")
    while True:
        try:
            reply = reader.gets()
        except UNPARSABLE:
            return found, True
        if reply is False:
            falses -= 1
            if falses < 0:
                return found, False
            continue
        if isinstance(reply, list) and len(reply) == 4 and reply[0] == b"pmessage":
            channel, event = reply[2:]
            if isinstance(channel, bytes) and isinstance(event, bytes):
                found.append((channel[len(PREFIX) :], event))


def new_dirty(mapping: bytes) -> DirtyKeys:
    return DirtyKeys(
        prefix_bytes=len(PREFIX), invokers=3, keys_max=50, key_bytes_max=KEY_BYTES_MAX, mapping_prefix=mapping
    )


def take_in(data: bytes, seed: int, mapping: bytes) -> tuple[DirtyKeys, list[Intake], bool]:
    """Take the bytes in as a subscriber does; the last is whether that ended in an error."""
    reader = hiredis.Reader()
    dirty = new_dirty(mapping)
    intakes = []
    for piece in pieces(data, seed):
        reader.feed(piece)
        try:
            intakes.append(dirty.take_in(reader.gets, WANTED, 1))
        except hiredis.ProtocolError:
            return dirty, intakes, True
    return dirty, intakes, False


def test_whole_messages_are_all_taken_in() -> None:
    """The fuzzers' own messages are well-formed: undamaged, in whatever pieces, every wanted key comes out."""
    names = [b"cart:%d" % number for number in range(20)]
    data = b"".join(of(b"*", [bulk(b"pmessage"), bulk(b"*"), bulk(PREFIX + name), bulk(b"hset")]) for name in names)
    for seed in range(50):
        dirty, _, is_failed = take_in(data, seed, b"")
        assert not is_failed
        assert sorted(key for bucket in dirty.buckets for key in bucket) == sorted(names)


@FUZZ
@given(streams, st.integers(0, 2**32), st.integers(0, 4), st.sampled_from([b"", MAPPING]))
@example([b"%1\r\n*0\r\n+a\r\n"], 0, 0, b"")
@example([b"*4294967295\r\n"], 0, 0, b"")
@example([b"*1\r\n" * 200 + b":1\r\n"], 0, 0, b"")
@example([of(b"*", [bulk(b"pmessage"), bulk(b"*"), bulk(PREFIX), b"$-1\r\n"])], 0, 0, b"")
@example([b"$4\r\nabcd\r\n", b"%4\r\n+pmessage\r\n:1\r\n+b\r\n:1\r\n+c\r\n:1\r\n+hset\r\n:1\r\n"], 0, 0, MAPPING)
@example([of(b"*", [bulk(b"xmessage"), bulk(b"*"), bulk(PREFIX + b"k"), bulk(b"hset")])], 0, 0, b"")
@example([of(b"*", [bulk(b"pmessage"), bulk(b"*"), b":7\r\n", bulk(b"hset")])], 0, 0, MAPPING)
@example([of(b"*", [bulk(b"pmessage"), bulk(b"*"), bulk(PREFIX), b"*0\r\n"])], 0, 0, b"")
@example([of(b"*", [bulk(b"pong"), bulk(b"1" * 5_000)])], 0, 0, b"")
@example([of(b"*", [bulk(b"pong"), b"*0\r\n"])], 0, 0, b"")
def test_no_bytes_make_an_event_that_was_not_there(parts: list[bytes], seed: int, blows: int, mapping: bytes) -> None:
    """Whatever comes over the wire: an error of the protocol, or nothing but keys of messages that were there."""
    data = damaged(b"".join(parts), seed, blows)
    expected, is_broken = told_by(data)
    dirty, intakes, is_failed = take_in(data, seed, mapping)
    wanted = [(key, event) for key, event in expected if event in WANTED]
    for bucket in dirty.buckets:
        for key, change in bucket.items():
            assert (key, change.event.encode()) in wanted
            assert key in data
            assert not (mapping and key.startswith(mapping))
            assert len(key) <= KEY_BYTES_MAX
    for intake in intakes:
        assert set(intake.marks) <= set(expected)
        hear(intake.others)
    if b"#f" in data:
        # The parser's word for "no more": what follows is taken in with the next read.
        return
    assert is_failed or not is_broken
    if not is_failed:
        assert sum(intake.read for intake in intakes) >= len(expected), "a message was passed over"


class FakeSentry:
    """A sentry that is never asked anything."""

    def is_asking(self) -> bool:
        return True

    def close(self) -> None:
        pass


def hear(replies: list[Any]) -> None:
    """Hand replies that are no events to a listener, as a subscriber does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        listener = Listener(Subscription(RedisSettings(), 0, feed_of(plan_shards(1, 0, [])[0]), 0, 1_000), "Kh")
        listener.connection = RespConnection(ours, Address("test", 0, 0, tls=False), None)
        listener.sentry = FakeSentry()  # type: ignore[assignment]
        listener.phase = Phase.SUBSCRIBING
        with suppress(RedisError):
            for reply in replies:
                if is_answer(reply):
                    listener.handle(reply)


def is_answer(reply: Any) -> bool:
    """Tell whether this is no pong, or one with the number that each of our pings carries."""
    if isinstance(reply, hiredis.ReplyError) or reply[0] != b"pong":
        return True
    return isinstance(reply[1], bytes) and reply[1].isdigit() and len(reply[1]) < 20


def connection_to(data: bytes, encoding: str | None = "utf-8") -> tuple[RespConnection, socket.socket]:
    """Return a connection to a server that says these bytes, whatever it is asked, and then closes."""
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    ours.settimeout(5)
    return RespConnection(ours, Address("test", 0, 0, tls=False), encoding), theirs


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def is_in(text: str, encoding: str, data: bytes) -> bool:
    return (base64.b64decode(text) if encoding else text.encode()) in data


def check(fetched: Fetched, data: bytes) -> None:
    """A value is an error, nothing, or a JSON text whose strings were all in what the server said."""
    if fetched.body is None or fetched.error:
        assert fetched.body is None
        return
    if fetched.type == "json" and not fetched.body_encoding:
        assert is_in(fetched.body, "", data)
        return
    for leaf in leaves(json.loads(fetched.body)):
        if isinstance(leaf, str) and leaf not in {"inf", "-inf", "nan"}:
            plain = is_in(leaf, "", data)
            assert plain or (fetched.body_encoding and is_in(leaf, fetched.body_encoding, data))


@FUZZ
@given(
    st.lists(values, max_size=8), st.lists(st.sampled_from(KINDS), max_size=8), st.integers(0, 2**32), st.integers(0, 3)
)
@example([b"%1\r\n*0\r\n+a\r\n"], ["hash"], 0, 0)
@example([b"*4294967295\r\n"], ["list"], 0, 0)
@example([b":0\r\n"], ["hash"], 0, 0)
@example([b"%1\r\n+a\r\n+b\r\n"] * 2, ["json", "string"], 0, 0)
@example([b"*2\r\n+field\r\n+value\r\n"], ["hash"], 0, 0)
@example([b"*2\r\n+member\r\n+1\r\n"], ["zset"], 0, 0)
@example([b"*1\r\n*0\r\n"], [TYPE], 0, 0)
@example([b"$4\r\nab\xff\xfe\r\n", b"*1\r\n:1\r\n"], ["string", "set"], 0, 0)
def test_no_bytes_make_a_value_that_was_not_there(parts: list[bytes], kinds: list[str], seed: int, blows: int) -> None:
    """Whatever a server answers to a pipeline: an error of ours, or values of which every string was in its bytes."""
    data = damaged(b"".join(parts), seed, blows)
    connection, theirs = connection_to(data)
    with theirs:
        try:
            replies = connection.pipeline(b"", len(kinds))
        except RedisError:
            return
        finally:
            connection.close()
    assert len(replies) == len(kinds)
    names = [b"key:%d" % number for number in range(len(kinds))]
    fetched, again = interpret_all(names, kinds, replies, 1)
    assert [value.key for value in fetched] == names
    assert all(kind in KINDS for _, kind in again)
    for value in fetched:
        check(value, data)


@FUZZ
@given(st.lists(values, max_size=8), st.integers(0, 2**32), st.integers(0, 3), st.sampled_from(["utf-8", None]))
@example([b"*3\r\n+a\r\n+b\r\n+c\r\n"] * 5, 0, 0, None)
@example([b":1\r\n"] * 5, 0, 0, "utf-8")
@example([b"%1\r\n:1\r\n+x\r\n"] * 5, 0, 0, "utf-8")
def test_no_greeting_crashes(parts: list[bytes], seed: int, blows: int, encoding: str | None) -> None:
    """A server that greets with anything at all is refused by an error of ours, or taken."""
    connection, theirs = connection_to(damaged(b"".join(parts), seed, blows), encoding)
    with theirs:
        try:
            with suppress(RedisError):
                connection._greet(Credentials("u", "p"), "test", 3, 1)
        finally:
            connection.close()
    assert all(isinstance(word, str) for fact in connection.facts.items() for word in fact)


def test_the_fuzzer_finds_what_it_looks_for() -> None:
    """The damage that these tests do is real: it makes parsers fail, and hides messages."""
    data = of(b"*", [bulk(b"pmessage"), bulk(b"*"), bulk(PREFIX + b"cart:1"), bulk(b"hset")]) * 5
    results = [told_by(damaged(data, seed, 3)) for seed in range(300)]
    assert any(is_broken for _, is_broken in results)
    assert any(not is_broken and len(found) < 5 for found, is_broken in results)
    assert any(key != b"cart:1" for found, _ in results for key, _ in found)
