"""Each function under Lambda's own runtime client and interface emulator, invoked by the engine."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambdas.package import functions, handler_of
from tests.emulator import emulator, needs_emulator
from tests.mariadb import mariadb_server, needs_mariadb
from tests.moto_process import moto_server
from tests.support import PathUnderTest, wait_for, whole_path

# The emulator runs one invocation at a time.
ROUTE = """
[[routes]]
name = "all"
function = "function"
keys = ["cart:*"]
parallelization_factor = 1
"""

pytestmark = needs_emulator


@contextmanager
def path_through(
    folder: Path, handler: str, environment: Mapping[str, str], route: str = ROUTE
) -> Iterator[PathUnderTest]:
    """Run server, emulator and engine; a hundred carts are set."""
    with emulator(handler, environment, folder / "function.log") as endpoint:
        variables = {"AWS_ENDPOINT_URL_LAMBDA": endpoint}
        with whole_path(folder, environment=variables) as path:
            path.write_config(route, shards=1, invokers=1)
            path.start()
            for number in range(100):
                path.client.hset(f"cart:{number}", mapping={"tea": number, "owner": "ann"})
            yield path
            assert path.stop() == 0


@contextmanager
def dynamodb() -> Iterator[tuple[dict[str, str], Callable[[], int]]]:
    with moto_server() as endpoint:
        client = boto3.client("dynamodb", endpoint_url=endpoint, region_name="us-east-1", **keys())
        client.create_table(
            TableName="carts",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        told = {"DYNAMO_TABLE": "carts", "TABLE": "carts", "AWS_ENDPOINT_URL_DYNAMODB": endpoint}
        yield told, lambda: int(client.scan(TableName="carts", Select="COUNT")["Count"])


@contextmanager
def bucket() -> Iterator[tuple[dict[str, str], Callable[[], int]]]:
    with moto_server() as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys())
        client.create_bucket(Bucket="carts")

        def lines() -> int:
            names = [one["Key"] for one in client.list_objects_v2(Bucket="carts").get("Contents", ())]
            bodies = [client.get_object(Bucket="carts", Key=name)["Body"].read() for name in names if "date=" in name]
            return sum(len(gzip.decompress(body).splitlines()) for body in bodies)

        yield {"ARCHIVE_BUCKET": "carts", "AWS_ENDPOINT_URL_S3": endpoint}, lines


def keys() -> dict[str, str]:
    return {"aws_access_key_id": "a", "aws_secret_access_key": "b"}


@contextmanager
def table_of_rows() -> Iterator[tuple[dict[str, str], Callable[[], int]]]:
    with mariadb_server() as server:
        server.execute(
            "CREATE TABLE carts (id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,"
            " owner VARCHAR(20) NULL, tea INT NULL, deleted_at DATETIME(3) NULL, version BIGINT NULL)"
        )
        mapping = {
            "keys": ["cart:*"],
            "table": "carts",
            "key": {"column": "id"},
            "columns": {"owner": "text", "tea": "int"},
        }
        told = server.environment(AURORA_MAPPING=json.dumps([mapping]))
        yield told, lambda: int(server.execute("SELECT count(*) FROM carts WHERE tea IS NOT NULL")[0][0])


Destination = Callable[[], Any]
DESTINATIONS: dict[str, Destination] = {
    "dynamodb": dynamodb,
    "s3_archive": bucket,
    "aurora_mysql": table_of_rows,
    "examples/original": dynamodb,
}
"""What each function writes to; those that write nothing are not here."""


def test_every_function_is_run() -> None:
    """A new function gets its destination here."""
    assert set(functions()) == {*DESTINATIONS, "examples/powertools"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_mariadb if name == "aurora_mysql" else ()) for name in DESTINATIONS]
)
def test_a_function_writes_what_changes(tmp_path: Path, name: str) -> None:
    """A hundred carts, set in a server, captured, and written by the function under Lambda's own runtime."""
    route = ROUTE + ('payload = "original"\n' if name == "examples/original" else "")
    with (
        DESTINATIONS[name]() as (environment, count),
        path_through(tmp_path, handler_of(name), environment, route) as path,
    ):
        wait_for(lambda: count() == 100, f"a hundred carts: {path.log()[-2_000:]}")
        wait_for(lambda: path.totals()["records_delivered"] >= 100, "the engine to know it")


def test_a_record_fails_alone_under_the_real_runtime(tmp_path: Path) -> None:
    """What batchItemFailures names comes again, and nothing else does."""
    with path_through(tmp_path, handler_of("examples/powertools"), {"POWERTOOLS_METRICS_DISABLED": "true"}) as path:
        # An owner is no quantity: every cart fails until it is mended.
        wait_for(lambda: path.totals()["records_retried"] >= 100, "a hundred failures")
        for number in range(100):
            path.client.hdel(f"cart:{number}", "owner")
            path.client.hset(f"cart:{number}", "tea", 1)
        wait_for(lambda: path.totals()["records_delivered"] >= 100, "a hundred carts that can be counted")
        wait_for(lambda: path.totals()["keys_in_flight"] + path.totals()["keys_waiting"] == 0, "nothing left")


def test_a_handler_that_raises_is_a_function_error(tmp_path: Path) -> None:
    """The emulator tells of it in the body alone; the engine does not take that for success."""
    with path_through(tmp_path, "tests.functions.broken", {}, ROUTE + "maximum_retry_attempts = 0\n") as path:
        wait_for(lambda: path.totals()["dead_letters"] == 100, "a dead letter for each cart")
        assert "this function is broken" in (tmp_path / "dead_letters.jsonl").read_text()


def test_a_function_that_was_set_up_wrongly_stops_the_start(tmp_path: Path) -> None:
    """The empty batch reaches it under its own runtime: the engine says what it lacks, and does not start."""
    with (
        emulator(handler_of("dynamodb"), {}, tmp_path / "function.log") as endpoint,
        whole_path(tmp_path, environment={"AWS_ENDPOINT_URL_LAMBDA": endpoint}) as path,
    ):
        path.write_config(ROUTE, shards=1, invokers=1)
        path.launch()
        wait_for(path.is_over, "the engine's end")
        assert "function cannot work: DYNAMO_TABLE is not set" in path.log()
        assert path.stop() != 0
