from __future__ import annotations

import pytest

from engine.config import RedisSettings
from engine.delivery.reading.fetch import Fetcher
from engine.delivery.reading.questions import Fetched
from engine.errors import RedisUnreachable
from tests.scripted import Scripted, bulk, time_reply


def one(fetcher: Fetcher, key: bytes, event: str) -> Fetched:
    (value,) = fetcher.fetch([(key, event)])
    return value


def seen(value: Fetched) -> tuple[str, str | None, bool, str]:
    return value.type, value.body, value.retyped, value.error


def scripted_fetch(answers: dict[bytes, list[bytes]], *keys: tuple[bytes, str]) -> tuple[list[Fetched], Scripted]:
    with Scripted(answers) as server:
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        values = fetcher.fetch(keys)
        fetcher.close()
        return values, server


def test_a_document_of_the_json_module():
    """A JSON document is read from its root, without an array around it, and its text is left as it is."""
    text = '{"b":1.50,"a":[12345678901234567890,"é"]}'
    (value,), server = scripted_fetch({b"JSON.GET": [bulk(text.encode())]}, (b"doc", "json.numincrby"))
    assert seen(value) == ("json", text, False, "")
    assert [b"JSON.GET", b"doc", b"."] in server.asked


def test_a_document_behind_other_events():
    """A document is found by its type where the event is generic, and where it replaced another type."""
    answers = {
        b"TYPE": [b"+ReJSON-RL\r\n"],
        b"HGETALL": [b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"],
        b"JSON.GET": [bulk(b"[1]")],
    }
    values, _ = scripted_fetch(answers, (b"a", "rename_to"), (b"b", "hset"))
    assert [seen(value) for value in values] == [("json", "[1]", False, ""), ("json", "[1]", True, "")]


def test_documents_that_are_none():
    """A document that is gone has no body; a key that is none any more is read as what it is."""
    answers = {
        b"JSON.GET": [b"_\r\n", b"-ERR Existing key has wrong Redis type\r\n"],
        b"TYPE": [b"+string\r\n"],
        b"GET": [bulk(b"x")],
    }
    values, _ = scripted_fetch(answers, (b"a", "json.del"), (b"b", "json.set"))
    assert [seen(value) for value in values] == [("none", None, False, ""), ("string", '"x"', True, "")]


def test_types_that_nobody_knows():
    """A key of a module's own type is an error of its own; the other keys are read."""
    answers = {b"TYPE": [b"+vectorset\r\n", b"+string\r\n"], b"GET": [bulk(b"x")]}
    values, _ = scripted_fetch(answers, (b"a", "vadd"), (b"b", "copy_to"))
    assert seen(values[0]) == ("vectorset", None, False, "keys of type vectorset have no canonical body")
    assert seen(values[1]) == ("string", '"x"', False, "")


def test_a_type_that_never_settles():
    """A key that changes its type with every read ends as an error after a bounded number of questions."""
    wrong = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    answers = {b"HGETALL": [wrong], b"GET": [wrong], b"TYPE": [b"+string\r\n", b"+hash\r\n"]}
    (value,), server = scripted_fetch(answers, (b"k", "hset"))
    assert (value.body, value.retyped) == (None, True)
    assert "faster than it could be read" in value.error
    assert len([command for command in server.asked if command[-1] == b"k"]) == 5


def test_a_clock_that_jumps_back():
    """Where the node's clock stands still or jumps back, versions grow all the same, and as fast as time does."""
    answers = {b"TIME": [time_reply(100), time_reply(100), time_reply(7), time_reply(9)], b"GET": [bulk(b"x")]}
    with Scripted(answers) as server:
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        versions = [one(fetcher, b"k", "set").version for _ in range(4)]
        fetcher.close()
    assert versions == [100_000_000, 100_000_001, 100_000_002, 102_000_002]


def test_an_empty_stream_has_the_version_of_its_reading():
    """A stream that was empty when read, and has entries when asked for, is told as it was, at that moment."""
    answers = {b"TIME": [time_reply(1), time_reply(2)], b"XRANGE": [b"*0\r\n"], b"EXISTS": [b":1\r\n"]}
    (value,), _ = scripted_fetch(answers, (b"k", "xtrim"))
    assert (seen(value), value.version) == (("stream", "[]", False, ""), 1_000_000)


@pytest.mark.parametrize("word", ["LOADING", "MASTERDOWN", "BUSY"])
def test_a_server_that_is_not_ready(word: str):
    """A refusal that concerns the server and passes by itself is no error of the keys: the fetch is to be repeated."""
    with Scripted({b"HGETALL": [f"-{word} not now\r\n".encode()]}) as server:
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        with pytest.raises(RedisUnreachable, match=word):
            fetcher.fetch([(b"k", "hset")])


def test_an_old_server_is_asked_how_long_keys_have():
    """Where PEXPIRETIME is unknown, PTTL tells it, from the first keys on, and PEXPIRETIME is not asked again."""
    answers = {
        b"PEXPIRETIME": [b"-ERR unknown command `PEXPIRETIME`\r\n"],
        b"PTTL": [b":5000\r\n"],
        b"GET": [bulk(b"v")],
        b"TIME": [time_reply(100)],
    }
    with Scripted(answers) as server:
        fetcher = Fetcher(RedisSettings(url=server.url), 0, "test")
        for _ in range(2):
            (value,) = fetcher.fetch([(b"k", "set")], include_expiry=True)
            assert value.expires_at_ms == 105_000
        fetcher.close()
    assert [command[0] for command in server.asked].count(b"PEXPIRETIME") == 1
