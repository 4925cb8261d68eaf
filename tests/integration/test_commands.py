"""Every write command of every server, and values of every size class, through the whole engine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.valkey import ValkeyServer
from tests.commands.case import Case, cases_for
from tests.commands.driver import EVENTS_OF_ROUTE, Destinations, Player, place, routes_text, wait_until_equal
from tests.commands.table import CASES, EXCEPTIONS
from tests.commands.values import VALUE_CASES, VALUES
from tests.servers import every_server, version_of
from tests.support import wait_for, whole_path

FUNCTIONS = [FunctionSpec(name, "accept") for name in EVENTS_OF_ROUTE]


def write_commands(client: Any) -> set[str]:
    """Return the server's commands that write, subcommands as in ``xgroup|create``."""
    found = set()
    for name, info in client.command().items():
        if "write" in map(_text, info["flags"]):
            found.add(name.lower())
        found.update(_text(one[0]).lower() for one in info.get("subcommands") or () if "write" in map(_text, one[2]))
    return found


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


@every_server
def test_the_table_has_every_write_command(server_binary: Path) -> None:
    """Each command that the server flags as a write is in the table, or left out for a reason; a new one is noticed."""
    with ValkeyServer(binary=server_binary) as server, redis.Redis(port=server.port) as client:
        known = write_commands(client)
        cases = cases_for(CASES, version_of(str(server_binary)), known)
        assert known - {case.command for case in cases} - EXCEPTIONS.keys() == set()


def test_exceptions_have_reasons() -> None:
    """Nothing is left out that is in the table too, and nothing without a word."""
    assert not EXCEPTIONS.keys() & {case.command for case in CASES}
    assert all(EXCEPTIONS.values())


@every_server
def test_values_are_of_their_class(server_binary: Path) -> None:
    """Each value has the encoding that its name says, so that the table has every size class."""
    with ValkeyServer(binary=server_binary) as server, redis.Redis(port=server.port) as client:
        for value in VALUES:
            client.flushall()
            client.execute_command(*value.make)
            assert client.object("ENCODING", "@a").decode() in value.encodings, value.name


def cases_of(binary: Path, server: ValkeyServer) -> list[Case]:
    with redis.Redis(port=server.port) as client:
        cases = cases_for(CASES, version_of(str(binary)), write_commands(client))
        return place([*cases, *VALUE_CASES])


@every_server
@pytest.mark.parametrize("role", ["primary", "replica"])
def test_every_write_command_ends_equal(server_binary: Path, role: str, tmp_path: Path) -> None:
    """Whatever is written, each route holds what the server holds, captured from a primary or a replica.

    What was there before is delivered first: a change that is not heard then shows.
    """
    with ExitStack() as stack:
        other = stack.enter_context(ValkeyServer(binary=server_binary))
        primary: ValkeyServer | None = None
        config = None
        if role == "replica":
            primary = stack.enter_context(ValkeyServer(binary=server_binary))
            config = {"replicaof": f"127.0.0.1 {primary.port}"}
        path = stack.enter_context(
            whole_path(tmp_path, functions=FUNCTIONS, server_config=config, binary=server_binary)
        )
        if primary is not None:
            wait_for(lambda: path.client.info("replication")["master_link_status"] == "up", "the replica is in step")
        server = primary or path.server
        path.write_config(routes_text())
        path.start()
        cases, destinations = cases_of(server_binary, server), Destinations(tmp_path / "journal.jsonl")
        player = Player(server.port, other.port)
        stack.callback(player.close)
        for case in cases:
            player.run(case.setup)
        found = wait_until_equal(cases, server.port, destinations)
        assert not found, "\n" + "\n".join(found)
        for case in cases:
            player.run(case.steps)
        found = wait_until_equal(cases, server.port, destinations)
        assert not found, "\n" + "\n".join(found)
