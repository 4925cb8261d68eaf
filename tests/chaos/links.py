"""How the writer's commands reach a server, or whichever node of a cluster has their keys."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.crc import key_slot

from tests.chaos.ledger import Answer, Sent, keys_of

ANSWER_S_MAX = 2.0
NODE_ANSWER_S_MAX = 0.6
"""A node that is halted holds up the writer, which has one thread for all."""
REDIRECTIONS_MAX = 8
STREAM = b"changes"
"""Or, in a cluster, the streams ``changes:{tag}``, each for the keys of its tag: both have to be in one slot."""
TAG = re.compile(rb"{[^}]+}")
SCRIPT = (Path(__file__).parents[2] / "config" / "streams" / "ingest_eval.lua").read_text()


class Link(Protocol):
    """Connections that are made when they are needed."""

    def exchange(self, entries: Sequence[Sent]) -> list[Any]:
        """Send these, note in each how it was answered, and return the replies; errors of the server are among them.

        Raises redis.ConnectionError or redis.TimeoutError where a reply was lost.
        """

    def close(self) -> None:
        """End them."""


def connect(port: int, answer_s_max: float, options: Mapping[str, Any]) -> redis.Connection:
    """Return a connection; ``options`` are of redis-py: user, password, TLS."""
    options = dict(options)
    kind = redis.SSLConnection if options.pop("ssl", False) else redis.Connection
    made = kind(
        host="127.0.0.1",
        port=port,
        protocol=2,
        socket_timeout=answer_s_max,
        socket_connect_timeout=answer_s_max,
        **options,
    )
    made.connect()
    return made


class OneLink:
    """To one server."""

    def __init__(self, port: int) -> None:
        self._connection = connect(port, ANSWER_S_MAX, {})

    def exchange(self, entries: Sequence[Sent]) -> list[Any]:
        """Send them in one pipeline."""
        self._connection.send_packed_command(self._connection.pack_commands([entry.words for entry in entries]))
        return [read(self._connection, entry) for entry in entries]

    def close(self) -> None:
        """End the connection."""
        _close(self._connection)


class StreamLink(OneLink):
    """To one server, each change of a key together with an entry that names it: by the script that applications use."""

    def exchange(self, entries: Sequence[Sent]) -> list[Any]:
        """Send them in one pipeline."""
        self._connection.send_packed_command(
            self._connection.pack_commands([_with_entry(one.words) for one in entries])
        )
        return [read(self._connection, entry) for entry in entries]


def _with_entry(words: Sequence[Any]) -> tuple[Any, ...]:
    command, *rest = words
    if command not in (b"HSET", b"DEL"):
        return tuple(words)
    assert command == b"HSET" or len(rest) == 1
    tag = TAG.search(rest[0])
    stream = STREAM + b":" + tag[0] if tag else STREAM
    return ("EVAL", SCRIPT, 2, rest[0], stream, command, *rest[1:])


class DatabasesLink:
    """To several databases of one server: a key that is known as ``3:name`` is ``name`` in database 3."""

    def __init__(self, port: int) -> None:
        self._connection = connect(port, ANSWER_S_MAX, {})

    def exchange(self, entries: Sequence[Sent]) -> list[Any]:
        """Send them in one pipeline, each to the database of its key; those without a key where the last one was."""
        words: list[tuple[bytes, ...]] = []
        selects: list[int] = []
        now: bytes = b""
        for entry in entries:
            keys = {key: key.partition(b":") for key in keys_of(entry.words) if key[:1].isdigit() and b":" in key}
            databases = {number for number, _, _ in keys.values()}
            selects.append(int(bool(databases) and databases != {now}))
            if selects[-1]:
                (now,) = databases
                words.append((b"SELECT", now))
            words.append(tuple(keys[word][2] if word in keys else word for word in entry.words))
        self._connection.send_packed_command(self._connection.pack_commands(words))
        replies, inside = [], None
        for entry, select in zip(entries, selects, strict=True):
            if select:
                self._connection.read_response()
            if inside is not None and entry.name != b"EXEC":
                inside += [False] * select + [True]
            replies.append(read(self._connection, entry))
            if entry.name == b"MULTI":
                inside = []
            elif entry.name == b"EXEC" and inside is not None:
                if isinstance(replies[-1], list):
                    replies[-1] = [one for one, is_asked in zip(replies[-1], inside, strict=True) if is_asked]
                inside = None
        return replies

    def close(self) -> None:
        """End the connection."""
        _close(self._connection)


class ClusterLink:
    """To all nodes of a cluster. ``seeds`` are the ports of nodes that may be asked who has which slots.

    With ``streams`` each change goes together with an entry, as by `StreamLink`.
    """

    def __init__(
        self, seeds: Callable[[], Sequence[int]], options: Mapping[str, Any], *, streams: bool = False
    ) -> None:
        self._seeds = seeds
        self._words: Callable[[Sequence[Any]], tuple[Any, ...]] = _with_entry if streams else tuple
        self._options = options
        self._connections: dict[int, redis.Connection] = {}
        self._owners: dict[int, int] = {}

    def exchange(self, entries: Sequence[Sent]) -> list[Any]:
        """Send them to the owners of their keys, and follow those that say that they are not."""
        replies: list[Any] = [None] * len(entries)
        waiting = list(range(len(entries)))
        asked: dict[int, int] = {}
        lost: Exception | None = None
        if not self._owners:
            self._learn()
        for _ in range(REDIRECTIONS_MAX):
            missing = self._round(entries, waiting, asked, replies)
            lost = missing or lost
            waiting, asked = self._redirected(entries, waiting, replies)
            if not waiting:
                break
        if lost is not None:
            self._owners.clear()
            raise lost
        return replies

    def close(self) -> None:
        """End all connections."""
        while self._connections:
            _close(self._connections.popitem()[1])

    def _round(
        self, entries: Sequence[Sent], waiting: Sequence[int], asked: Mapping[int, int], replies: list[Any]
    ) -> Exception | None:
        """Send what waits, each to its node, and read the replies; return what went wrong with a node."""
        by_port: dict[int, list[int]] = {}
        for index in waiting:
            by_port.setdefault(asked.get(index) or self._owner(entries[index]), []).append(index)
        wrong: Exception | None = None
        for port, indexes in by_port.items():
            try:
                self._ask(port, [(entries[index], index in asked) for index in indexes])
            except (redis.RedisError, OSError) as error:
                wrong = self._drop(port, error)
        for port, indexes in by_port.items():
            connection = self._connections.get(port)
            if connection is None:
                continue
            try:
                for index in indexes:
                    if index in asked:
                        connection.read_response()
                    replies[index] = read(connection, entries[index])
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                wrong = self._drop(port, error)
        return wrong

    def _ask(self, port: int, entries: Sequence[tuple[Sent, bool]]) -> None:
        connection = self._connections.get(port)
        if connection is None:
            connection = self._connections[port] = connect(port, NODE_ANSWER_S_MAX, self._options)
        words: list[tuple[Any, ...]] = []
        for entry, is_asking in entries:
            sent = self._words(entry.words)
            words += [("ASKING",), sent] if is_asking else [sent]
        connection.send_packed_command(connection.pack_commands(words))

    def _drop(self, port: int, error: Exception) -> Exception:
        connection = self._connections.pop(port, None)
        if connection is not None:
            _close(connection)
        is_known = isinstance(error, redis.ConnectionError | redis.TimeoutError)
        return error if is_known else redis.ConnectionError(str(error))

    def _redirected(
        self, entries: Sequence[Sent], sent: Sequence[int], replies: Sequence[Any]
    ) -> tuple[list[int], dict[int, int]]:
        """Return which are to be sent again, and where to, if not to the slot's owner."""
        again: list[int] = []
        asked: dict[int, int] = {}
        for index in sent:
            match replies[index]:
                case redis.exceptions.MovedError() as moved:  # which is an AskError too
                    self._owners[moved.slot_id] = moved.port
                    again.append(index)
                case redis.exceptions.AskError() as ask:
                    asked[index] = ask.port
                    again.append(index)
                case redis.ReadOnlyError() | redis.exceptions.ClusterError():
                    self._owners.clear()  # whoever is asked next finds out
        for index in again:
            entries[index].answer = Answer.LOST
        return again, asked

    def _owner(self, entry: Sent) -> int:
        slot = key_slot(keys_of(entry.words)[0])
        if slot not in self._owners:
            self._learn()
        return self._owners.get(slot) or self._seeds()[0]

    def _learn(self) -> None:
        for port in self._seeds():
            with contextlib.suppress(redis.RedisError, OSError):
                connection = connect(port, NODE_ANSWER_S_MAX, self._options)
                try:
                    connection.send_command("CLUSTER", "SLOTS")
                    for first, last, primary, *_ in connection.read_response():
                        self._owners.update(dict.fromkeys(range(first, last + 1), int(primary[1])))
                    return
                finally:
                    _close(connection)
        raise redis.ConnectionError("no node says who has which slots")


def read(connection: redis.Connection, entry: Sent) -> Any:
    """Read the reply to this entry, note what it says, and return it; errors of the server are returned too."""
    try:
        reply = connection.read_response()
    except (redis.ConnectionError, redis.TimeoutError):
        raise
    except redis.RedisError as error:
        entry.answer = Answer.REFUSED
        return error
    entry.answer = Answer.ACKNOWLEDGED
    return reply


def _close(connection: redis.Connection) -> None:
    with contextlib.suppress(redis.RedisError, OSError):
        connection.disconnect()
