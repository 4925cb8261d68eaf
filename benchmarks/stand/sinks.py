"""Where a benchmark's records go, and how it is learnt what arrived there, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.lag import check
from benchmarks.lag.stages import Clocks, Received, read_journal, read_notes
from benchmarks.stand.errors import BenchmarkError
from benchmarks.stand.harness import Rig, stand_in
from engine.sandbox import aws
from engine.sandbox.aws import sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.spec import FunctionSpec

SinkName = Literal["stand-in", "dynamodb", "dynamodb-local", "aws"]
TABLE = "bench"
ENDPOINT, FUNCTION, AWS_TABLE = "DYNAMODB_ENDPOINT", "BENCH_FUNCTION", "BENCH_TABLE"


class SinkError(BenchmarkError):
    """A sink that can't be used; the message says what is missing."""


@dataclass(frozen=True)
class Table:
    """A DynamoDB table that the records end in."""

    client: Any
    name: str

    def numbers(self, since_ns: int) -> dict[int, int]:
        """Return key's number → its item's value's number, of those that were due since then (monotonic ns)."""
        return check.in_table(self.client, self.name, since_ns)

    def number(self, key: int) -> int:
        """Return the number of one key's value, 0 if there is no item."""
        return check.in_item(self.client, self.name, key)


@dataclass(frozen=True)
class Sink:
    """A place for records.

    ``table`` is None for the stand-in, whose journal tells all. ``function`` runs in the sandbox's Lambda;
    ``aws_function`` names one in AWS, which notes nothing: lag is then learnt by looking (`benchmarks.lag.probe`).
    """

    name: SinkName
    table: Table | None = None
    environment: Mapping[str, str] | None = None
    aws_function: str = ""

    @property
    def stage(self) -> str:
        """Return the last stage that is seen."""
        return "invoked" if self.table is None else "committed"

    @property
    def is_probed(self) -> bool:
        """Tell whether the function's own notes can't be obtained."""
        return bool(self.aws_function)

    def function(self, folder: Path) -> FunctionSpec:
        """Return the function of the sandbox's Lambda."""
        if self.table is None:
            return stand_in(folder)
        environment = {**(self.environment or {}), "DYNAMO_TABLE": self.table.name, "NOTES": str(folder)}
        return FunctionSpec("accept", "benchmarks.lag.function:store", concurrency_max=4, environment=environment)

    def received(self, rig: Rig, clocks: Clocks) -> Received:
        """Return everything that arrived so far."""
        return read_journal(rig.journal, clocks) if self.table is None else read_notes(rig.folder)


@contextmanager
def sink(name: SinkName, environ: Mapping[str, str] = os.environ) -> Iterator[Sink]:
    """Start what the sink needs, or look whether it is there; raise `SinkError`."""
    match name:
        case "stand-in":
            yield Sink(name)
        case "dynamodb":
            with DynamoDbServer() as server:
                server.create_table(TABLE)
                environment = sandbox_environment(dynamodb_endpoint=server.endpoint)
                yield Sink(name, Table(server.client(), TABLE), environment)
        case "dynamodb-local":
            with _dynamodb_local(environ) as table:
                endpoint = table.client.meta.endpoint_url
                yield Sink(name, table, sandbox_environment(dynamodb_endpoint=endpoint))
        case "aws":
            yield _in_aws(environ)


@contextmanager
def _dynamodb_local(environ: Mapping[str, str]) -> Iterator[Table]:
    endpoint = environ.get(ENDPOINT, "")
    if not endpoint.startswith(("http://", "https://")):
        raise SinkError(f"the sink dynamodb-local wants {ENDPOINT}, as {ENDPOINT}=http://127.0.0.1:8000")
    client, name = aws.client("dynamodb", endpoint), f"{TABLE}-{os.getpid()}"
    try:
        client.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
    except (BotoCoreError, ClientError) as error:
        raise SinkError(f"{ENDPOINT}: no table can be made at {endpoint}: {error}") from error
    try:
        yield Table(client, name)
    finally:
        client.delete_table(TableName=name)


def _in_aws(environ: Mapping[str, str]) -> Sink:
    function, name = environ.get(FUNCTION, ""), environ.get(AWS_TABLE, "")
    if not function or not name:
        raise SinkError(
            f"the sink aws wants {FUNCTION}, a deployed DynamoDB function, and {AWS_TABLE}, the table that it writes, "
            "which is for benchmarks alone: items of keys bench:… stay in it; credentials and region are the AWS SDK's"
        )
    try:
        client = boto3.client("dynamodb")
        client.describe_table(TableName=name)
    except (BotoCoreError, ClientError) as error:
        raise SinkError(f"{AWS_TABLE}: the table {name} can't be looked at: {error}") from error
    return Sink("aws", Table(client, name), aws_function=function)
