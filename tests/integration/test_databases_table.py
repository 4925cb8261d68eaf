"""Two databases and one table, whose items say their database: compared, repaired, deleted, and held by database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox
from tests.integration.test_smallest_user import become_smallest, refusals
from tests.support import wait_for
from tests.table_rig import TableRig

FUNCTION = FunctionSpec(
    "dynamodb",
    "lambdas.dynamodb.handler:handler",
    environment={"DYNAMO_TABLE": DEFAULT_TABLE, "DYNAMO_DATABASE_IN_KEY": "on"},
)


class Rig(TableRig):
    """An engine of databases 0 and 3; keys are known as (database, name)."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        super().__init__(sandbox, sandbox.redis_url.removesuffix("/0"), folder)
        text = self.config.read_text().replace("[redis]", "[redis]\ndatabases = [0, 3]")
        self.config.write_text(text.replace(f'{sandbox.table}"', f'{sandbox.table}?database_in_key=on"'))

    def client(self, database: int) -> Any:
        return redis.Redis(port=self.sandbox.valkey.port, db=database)

    def stored(self) -> dict[tuple[int, str], str]:
        """Return what the table holds of this test."""
        pages = self.sandbox.dynamodb_client().get_paginator("scan")
        found = {}
        for page in pages.paginate(TableName=self.sandbox.table, ConsistentRead=True):
            for item in page["Items"]:
                number, _, name = item["id"]["S"].partition(":")
                if name.startswith(self.prefix):
                    found[int(number), name.removeprefix(self.prefix)] = item["body"]["S"]
        return found

    def write(self, *names: str, databases: tuple[int, ...] = (0, 3)) -> None:
        for database in databases:
            pipe = self.client(database).pipeline(transaction=False)
            for name in names:
                pipe.hset(self.key(name), "n", f"{database}.{name}")
            pipe.execute()

    def audited(self, *arguments: str) -> Any:
        (route,) = orjson.loads(self.run("audit", "--json", *arguments).stdout)["routes"]
        return route


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(functions=[FUNCTION]) as stack:
        yield stack


@pytest.fixture
def rig(sandbox: Sandbox, tmp_path: Path) -> Rig:
    redis.Redis(port=sandbox.valkey.port).flushall()
    return Rig(sandbox, tmp_path)


def test_an_audit_compares_each_database(rig: Rig) -> None:
    """What lacks in the table, or is another's there, is named with its database, and mended alone."""
    with rig.engine():
        rig.write("a", "b")
        wait_for(lambda: len(rig.stored()) == 4, "four items")
        assert rig.stored()[3, "a"] == '{"n":"3.a"}'
        route = rig.audited()
        assert (route["differences"], route["compared"], route["items"]) == (0, 4, 4)
        key = {"id": {"S": f"3:{rig.key('a')}"}}
        rig.sandbox.dynamodb_client().delete_item(TableName=rig.sandbox.table, Key=key)
        route = rig.audited()
        assert route["missing"] == {"count": 1, "examples": [{"id": rig.key("a"), "db": 3}]}
        assert rig.audited("--repair")["repaired"] == 1
        wait_for(lambda: rig.stored().get((3, "a")) == '{"n":"3.a"}', "it is there again")
        assert f"{rig.key('a')} in database 3" in rig.run("audit").stdout or rig.audited()["differences"] == 0


def test_a_key_that_was_deleted_unheard_goes_from_its_database_alone(rig: Rig) -> None:
    """The comparison after a gap deletes the item of the database that lost the key; the other's stays, also where all
    databases are captured.
    """
    rig.config.write_text(rig.config.read_text().replace("databases = [0, 3]", 'databases = "*"'))
    with rig.engine():
        rig.write("a", "b")
        wait_for(lambda: len(rig.stored()) == 4, "four items")
        pipe = rig.client(0).pipeline(transaction=True)
        pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipe.delete(rig.key("a"))
        pipe.execute()
        wait_for(lambda: set(rig.stored()) == {(0, "b"), (3, "a"), (3, "b")}, "the item of database 0 is gone")
        assert rig.audited()["differences"] == 0


def test_a_flush_of_one_database_is_held(rig: Rig) -> None:
    """More keys of one database are found gone than its share: they wait for a decision, whatever the other holds."""
    names = [f"key:{number}" for number in range(150)]
    with rig.engine():
        rig.write(*names, databases=(3,))
        rig.write(*names, *(f"more:{number}" for number in range(450)), databases=(0,))
        wait_for(lambda: len(rig.stored()) == 750, "all items")
        rig.client(3).flushdb()
        wait_for(lambda: rig.status()["deletions_held"] == 150, "they are held")
        assert len(rig.stored()) == 750
        assert rig.run("deletions", "accept", "carts").returncode == 0
        wait_for(lambda: {database for database, _ in rig.stored()} == {0}, "they are deleted")
        assert len(rig.stored()) == 600


def test_the_smallest_user_is_enough(rig: Rig) -> None:
    """Nothing is refused to the user that is printed for several databases."""
    client = rig.client(0)
    become_smallest(rig, [client])
    with rig.engine():
        rig.write("a", "b")
        wait_for(lambda: len(rig.stored()) == 4, "four items")
        rig.client(3).delete(rig.key("a"))
        wait_for(lambda: len(rig.stored()) == 3, "three")
        assert rig.audited()["differences"] == 0
    assert refusals([client]) == []
