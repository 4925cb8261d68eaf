"""Runs the table against one server, and compares every destination with it."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import redis

from tests.chaos.oracle import Item, Truth, is_same, read_truth
from tests.commands.case import BLOCKED, DUMP, IN_DATABASE_1, OTHER_PORT, VALUES_ONLY, Case, Words

WAIT_S = 60.0

EVENTS_OF_ROUTE: dict[str, list[str]] = {
    "changes": ["changes"],
    "expired": ["*", "expired"],
    "hexpired": ["*", "hexpired"],
    "evicted": ["*", "evicted"],
    VALUES_ONLY: ["*"],
}
"""Each route has a function of its own, of the same name."""


def routes_text() -> str:
    """Return the routes for the engine's settings."""
    return "".join(
        f'[[routes]]\nname = "{name}"\nfunction = "{name}"\nevents = {orjson.dumps(events).decode()}\n'
        for name, events in EVENTS_OF_ROUTE.items()
    )


def place(cases: Sequence[Case]) -> list[Case]:
    """Return the cases with keys of their own."""
    return [case.placed(b"case%d:" % number) for number, case in enumerate(cases)]


class Player:
    """Runs commands on one server; ``other_port`` is that of a server to migrate to."""

    def __init__(self, port: int, other_port: int) -> None:
        self._port, self._other_port = port, other_port
        self._connections = {
            number: redis.Connection(port=port, db=number, protocol=2, socket_timeout=WAIT_S) for number in (0, 1, 2)
        }
        self._blocked = redis.Connection(port=port, protocol=2, socket_timeout=WAIT_S)

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._connections.values(), self._blocked):
            connection.disconnect()

    def run(self, commands: Sequence[Words]) -> None:
        """Run these one after the other."""
        waits = False
        for words in commands:
            if words[0] == BLOCKED:
                self._blocked.send_command(*self._filled(words[1:]))
                self._wait_until_blocked()
                waits = True
                continue
            database = int(words[0] == IN_DATABASE_1)
            self._call(database, *self._filled(words[database:]))
            if waits:
                self._blocked.read_response()
                waits = False

    def _call(self, database: int, *words: bytes) -> Any:
        connection = self._connections[database]
        connection.send_command(*words)
        return connection.read_response()

    def _filled(self, words: Words) -> Words:
        return tuple(self._fill(word) for word in words)

    def _fill(self, word: bytes) -> bytes:
        if word.startswith(DUMP):
            dump: bytes = self._call(0, b"DUMP", word.removeprefix(DUMP))
            return dump
        return b"%d" % self._other_port if word == OTHER_PORT else word

    def _wait_until_blocked(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while b"blocked_clients:0" in self._call(2, b"INFO", b"clients"):
            assert time.monotonic() < deadline, "the command does not block"
            time.sleep(0.005)


class Destinations:
    """What each route's function was given last of each key, by the runtime's journal."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._read_bytes = 0
        self.held: dict[str, dict[bytes, Item | None]] = {name: {} for name in EVENTS_OF_ROUTE}

    def read(self) -> None:
        """Take in what came since."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        lines = [orjson.loads(line) for line in whole.splitlines()]
        for line in sorted(lines, key=lambda one: one["started_ns"]):
            for record in line["event"]["records"]:
                is_coded = record.get("id_encoding") == "base64"
                key = base64.b64decode(record["id"]) if is_coded else record["id"].encode()
                body = record["body"]
                item = None if body is None else Item(body, record.get("body_encoding") == "base64")
                self.held[line["function"]][key] = item


def truth_of(port: int) -> dict[bytes, Truth]:
    """Return all that the server holds, also streams without entries."""
    truth = read_truth(port)
    with redis.Redis(port=port, protocol=2) as client:
        for key in client.scan_iter(count=1_000, _type="stream"):
            truth.setdefault(key, Truth("stream", []))
    return truth


def differences(
    cases: Sequence[Case], truth: Mapping[bytes, Truth], held: Mapping[str, Mapping[bytes, Item | None]]
) -> Iterator[str]:
    """Yield in words where a route does not end equal."""
    by_prefix = {b"case%d" % number: case for number, case in enumerate(cases)}
    keys = {*truth, *(key for items in held.values() for key in items)}
    for key in sorted(keys):
        case = by_prefix[key.partition(b":")[0]]
        right = truth.get(key)
        for route in case.routes:
            item = held[route].get(key)
            if right is None:
                is_equal = item is None or route == VALUES_ONLY
            else:
                is_equal = item is not None and is_same(item, right)
            if not is_equal:
                yield f"{case.name}: {key!r} of route {route} is {_short(item)}, should be {_short(right)}"


def _short(value: object) -> str:
    return repr(value)[:160]


def wait_until_equal(cases: Sequence[Case], port: int, destinations: Destinations) -> list[str]:
    """Wait until every route ends equal; return what still differs after `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while True:
        destinations.read()
        found = list(differences(cases, truth_of(port), destinations.held))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
