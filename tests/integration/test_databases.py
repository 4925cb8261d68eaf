"""Several databases of one server, with keys of the same names, on the whole path: each arrives by itself."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import orjson
import redis

from engine.delivery.failures.dead_letter import DeadLetter, FileSink
from engine.sandbox.functions.runtime import FunctionSpec
from tests.cluster import sentinels, wait_until
from tests.servers import every_server
from tests.support import PathUnderTest, come_to_rest, wait_for, whole_path

ROUTE = """\
[[routes]]
name = "all"
function = "accept"
events = ["*", "del", "expired"]
"""
ODD = (b"", b"a__:b", b"@3__:", b"3__:x", b"1__:x", b"__keyspace@1__:x", b"\xff__:", b"*", b":")
"""Names that look like channels, and the one that has no last byte."""

Held = dict[tuple[int, str], Any]


def client_of(path: PathUnderTest, database: int) -> Any:
    return redis.Redis(port=path.server.port, db=database)


def configure(path: PathUnderTest, databases: str, route: str = ROUTE, **counts: int) -> None:
    path.write_config(route, **counts)
    text = path.config.read_text().replace(path.server.url, path.server.url.removesuffix("/0"))
    path.config.write_text(text.replace("[redis]", f"[redis]\ndatabases = {databases}"))


def held(path: PathUnderTest) -> Held:
    """Return what a destination would hold of each database: the last value of each key that is there."""
    found: Held = {}
    for record in path.records():
        found[record["db"], record["id"]] = record["body"]
    return {key: orjson.loads(body) for key, body in found.items() if body is not None}


def accepted(path: PathUnderTest) -> set[tuple[int, str]]:
    """Return whose records a function has accepted."""
    well = [one["event"]["records"] for one in path.invocations() if not one["error"]]
    return {(record["db"], record["id"]) for records in well for record in records}


def expected(path: PathUnderTest, *databases: int) -> Held:
    """Return what the server has."""
    found: Held = {}
    for database in databases:
        client = redis.Redis(port=path.server.port, db=database, decode_responses=True)
        found |= {(database, key): client.hgetall(key) for key in client.scan_iter(count=1_000)}
    return found


def settled(path: PathUnderTest, *databases: int) -> None:
    wait_for(lambda: held(path) == expected(path, *databases), f"all of databases {databases}")


@every_server
def test_keys_of_one_name_arrive_from_each_database(tmp_path: Path, server_binary: Path) -> None:
    """Values, deletes and moves of two databases are told apart, whatever the keys are called; a third is not heard."""
    with whole_path(tmp_path, binary=server_binary) as path:
        configure(path, "[0, 3]")
        path.start()
        for database in (0, 1, 3):
            client = client_of(path, database)
            for number in range(300):
                client.hset(f"key:{number}", "n", f"{database}.{number}")
            client.hset("gone", "n", database)
        settled(path, 0, 3)
        client_of(path, 3).delete("gone")
        client_of(path, 0).move("key:7", 5)
        client_of(path, 3).move("key:8", 0) if client_of(path, 0).delete("key:8") else None
        client_of(path, 0).copy("key:9", "copied", destination_db=3)
        settled(path, 0, 3)
        assert {record["db"] for record in path.records()} == {0, 3}
        assert path.status()["databases"] == [0, 3]
        assert path.stop() == 0


def test_names_like_channels_go_nowhere_else(tmp_path: Path) -> None:
    """Keys whose names hold what a channel holds, and empty ones, come once a change, from their own database."""
    with whole_path(tmp_path) as path:
        configure(path, '"*"', shards=3)
        path.start()
        for database in (0, 1, 3, 11):
            client = client_of(path, database)
            for name in ODD:
                client.hset(name, "n", database)
        wait_for(lambda: len(path.records()) >= 4 * len(ODD), "all of them")
        found = {
            (one["db"], one["id"], one.get("id_encoding", "")): orjson.loads(one["body"]) for one in path.records()
        }
        assert len(found) == 4 * len(ODD)
        assert all(body == {"n": str(database)} for (database, _, _), body in found.items())
        wait_for(lambda: path.totals()["events_read"], "the status is new")
        assert path.totals()["events_read"] == 4 * len(ODD)
        assert path.stop() == 0


def test_gaps_and_restarts_find_what_changed_in_each(tmp_path: Path) -> None:
    """What changed unheard, while subscriptions were cut off and while no engine ran, arrives from both databases."""
    with whole_path(tmp_path) as path:
        configure(path, "[0, 1]")
        path.start()
        for round_ in range(3):
            if round_ == 2:
                assert path.stop() == 0
            for database in (0, 1):
                pipe = client_of(path, database).pipeline(transaction=True)
                if round_ == 1:
                    pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                for number in range(200):
                    pipe.hset(f"key:{round_}:{number}", "n", database)
                pipe.hset("", "n", f"{database}.{round_}")
                pipe.execute()
            if round_ == 2:
                path.start()
            settled(path, 0, 1)
        assert path.stop() == 0


def test_a_swap_and_a_flush_of_one(tmp_path: Path) -> None:
    """Databases that are swapped are delivered as they are then; a flush of one is a gap, and changes nothing of the
    other's values.
    """
    with whole_path(tmp_path) as path:
        configure(path, "[0, 1]")
        path.start()
        for database in (0, 1):
            client = client_of(path, database)
            for number in range(100):
                client.hset(f"key:{number}", "n", database)
        settled(path, 0, 1)
        client_of(path, 0).swapdb(0, 1)
        settled(path, 0, 1)
        assert held(path)[1, "key:1"] == {"n": "0"}
        gaps = path.totals()["gaps"]
        client_of(path, 1).flushdb()
        client_of(path, 1).hset("key:5", "n", "new")
        wait_for(lambda: path.totals()["gaps"] > gaps, "a gap")
        wait_for(lambda: held(path)[1, "key:5"] == {"n": "new"}, "the new value")
        assert held(path)[0, "key:5"] == {"n": "1"}
        assert path.stop() == 0


def test_a_flush_is_noticed_whichever_database_it_is_of(tmp_path: Path) -> None:
    """A flush of the one that the engine's own keys are not in is a gap, though nothing else has happened."""
    with whole_path(tmp_path) as path:
        for database in (0, 1):
            client_of(path, database).hset("there", "n", database)
        configure(path, "[0, 1]")
        path.start()
        client_of(path, 1).flushdb()
        wait_for(lambda: path.totals()["gaps"], "a gap")
        assert path.stop() == 0


def test_a_database_that_is_added(tmp_path: Path) -> None:
    """An engine of one database takes a second in: the first goes on where it was, with what waits on disk; the whole
    of the second is given to a route that begins with the whole keyspace. Back again, nothing is lost either.
    """
    healed = tmp_path / "healed"
    gate = FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(healed)})
    route = '[[routes]]\nname = "all"\nfunction = "gate"\nstarting_position = "TRIM_HORIZON"\n'
    with whole_path(tmp_path, functions=[gate]) as path:
        client_of(path, 1).hset("old", "n", "1.old")
        configure(path, "[0]", route)
        path.start()
        client_of(path, 0).hset("waits", "n", "0.waits")
        wait_for(lambda: path.totals()["records_retried"] > 0, "it fails")
        assert path.stop() == 0
        client_of(path, 0).hset("unheard", "n", "0.unheard")
        configure(path, "[0, 1]", route)
        healed.touch()
        path.start()
        settled(path, 0, 1)
        wait_for(lambda: accepted(path) == {(0, "waits"), (0, "unheard"), (1, "old")}, "all of them are accepted")
        assert path.status()["routes"][0]["keys"] == ["*"]
        wait_for(lambda: path.status()["routes"][0]["snapshot"] == "done", "the snapshot")
        healed.unlink()
        client_of(path, 0).hset("waits", "n", "again")
        wait_for(lambda: path.totals()["keys_backlog"] > 0 or path.totals()["records_retried"] > 0, "it fails again")
        assert path.stop() == 0
        client_of(path, 0).hset("unheard", "n", "again")
        configure(path, "[0]", route)
        healed.touch()
        path.start()
        wait_for(lambda: held(path)[0, "unheard"] == held(path)[0, "waits"] == {"n": "again"}, "both")
        assert path.stop() == 0


def test_what_waited_of_another_database(tmp_path: Path) -> None:
    """What an engine of database 3 left on disk is delivered from there by one that captures 0 and 3."""
    healed = tmp_path / "healed"
    gate = FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(healed)})
    route = '[[routes]]\nname = "all"\nfunction = "gate"\n'
    with whole_path(tmp_path, functions=[gate]) as path:
        configure(path, "[3]", route)
        path.start()
        client_of(path, 3).hset("waits", "n", "3")
        client_of(path, 0).hset("waits", "n", "0")
        wait_for(lambda: path.totals()["records_retried"] > 0, "it fails")
        # Nothing but what is on disk is to say that it was not delivered.
        come_to_rest(client_of(path, 3), "waits")
        seconds, _ = path.client.time()
        wait_for(lambda: path.status()["settled_until_ms"] > seconds * 1_000, "its change is settled")
        assert path.stop() == 0
        configure(path, "[0, 3]", route)
        healed.touch()
        path.start()
        wait_for(lambda: (3, "waits") in accepted(path), "the one of database 3")
        assert path.stop() == 0


def test_on_a_replica(tmp_path: Path) -> None:
    """Both databases are captured and read on a replica, and after it is lost on the primary."""
    with sentinels(count=0, replicas=1) as made, whole_path(tmp_path) as path:
        primary, replica = made.nodes
        wait_until(lambda: primary.client.info("replication")["connected_slaves"] == 1, "it follows")
        configure(path, "[0, 3]")
        text = path.config.read_text().replace(
            f'"{path.server.url.removesuffix("/0")}"', f'"redis://{primary.address}"'
        )
        text = text.replace("[capture]", 'read_from = "replica"\n[capture]\ntopology_interval_ms = 500')
        path.config.write_text(text)
        path.start()
        for round_ in range(2):
            for database in (0, 3):
                with redis.Redis(port=primary.port, db=database) as client:
                    for number in range(50):
                        client.hset(f"key:{number}", "n", f"{database}.{number}.{round_}")
            want = {(database, f"key:{n}"): {"n": f"{database}.{n}.{round_}"} for database in (0, 3) for n in range(50)}
            wait_for(lambda want=want: held(path) == want, "both databases")
            if not round_:
                replica.kill()
        assert path.stop() == 0


def test_letters_go_to_their_own_database(tmp_path: Path) -> None:
    """A redrive has the key of the letter's database delivered, and leaves letters of those that are not captured."""
    healed = tmp_path / "healed"
    gate = FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(healed)})
    route = '[[routes]]\nname = "all"\nfunction = "gate"\nmaximum_retry_attempts = 0\n'
    with whole_path(tmp_path, functions=[gate]) as path:
        configure(path, "[0, 1]", route)
        path.start()
        client_of(path, 0).hset("same", "n", "0")
        client_of(path, 1).hset("same", "n", "1")
        letters = tmp_path / "dead_letters.jsonl"
        wait_for(lambda: letters.exists() and len(letters.read_bytes().splitlines()) == 2, "two letters")
        assert {orjson.loads(line)["db"] for line in letters.read_bytes().splitlines()} == {0, 1}
        strange = DeadLetter(1, "all", "gate", "same", "hset", 1, 1, "why", db=7)
        assert FileSink(str(letters), 1_000_000).write([strange]) == ""
        healed.touch()
        done = run(path, "redrive", "--json")
        assert (done["sent"], done["kept"]) == (2, 1)
        assert "databases that are not captured" in done["sources"][0]["problems"][0]
        settled(path, 0, 1)
        assert path.stop(signal.SIGTERM) == 0


def run(path: PathUnderTest, *arguments: str) -> Any:
    import subprocess
    import sys

    command = [sys.executable, "-m", "engine", *arguments, "--config", str(path.config)]
    done = subprocess.run(command, env=path.environment, cwd=path.folder, capture_output=True, text=True, timeout=120)
    return orjson.loads(done.stdout)
