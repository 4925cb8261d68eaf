"""The sandbox as a whole, and its DynamoDB: everything starts, works together, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.errors import PortInUse
from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import Sandbox

WAIT_S_MAX = 30.0

WRITER = """
import os
import boto3

client = boto3.client("dynamodb")

def handler(event, context):
    for record in event["records"]:
        item = {"id": {"S": record["id"]}, "body": {"S": record["body"]}}
        client.put_item(TableName=os.environ["DYNAMO_TABLE"], Item=item)
    return {"batchItemFailures": []}
"""

# The default functions import the real handler; these tests are about the sandbox alone.
RUN = """
import sys
from engine.errors import EngineError
from engine.sandbox import run, stack
from engine.sandbox.functions.runtime import FunctionSpec
stack.default_functions = lambda table: [
    FunctionSpec("writer", "table_writer:handler", environment={"DYNAMO_TABLE": table})
]
try:
    sys.exit(run.run_sandbox(REDIS_PORT, 0, 0, table="carts", json_output=JSON))
except EngineError as error:
    sys.exit(f"error: {error}")
"""


def poll(condition: Callable[[], Any]) -> Any:
    """Return the condition's value as soon as it is true."""
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


def is_running(pid: int) -> bool:
    """Return whether the process is there, and more than a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    """A folder with a function that writes to the table."""
    (tmp_path / "table_writer.py").write_text(WRITER)
    return tmp_path


def test_dynamodb_batch_round_trip():
    """Items written in a batch are read back; making the table twice does no harm."""
    with DynamoDbServer() as server:
        server.create_table("carts")
        server.create_table("carts")
        client = server.client()
        items = [{"id": {"S": f"cart:{number}"}, "body": {"S": "x" * number}} for number in range(25)]
        requests = [{"PutRequest": {"Item": item}} for item in items]
        assert client.batch_write_item(RequestItems={"carts": requests})["UnprocessedItems"] == {}
        table = client.describe_table(TableName="carts")["Table"]
        assert table["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        found = client.scan(TableName="carts")["Items"]
    assert sorted(found, key=lambda item: len(item["body"]["S"])) == items


def test_dynamodb_port_in_use():
    """A given port that somebody listens on is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = DynamoDbServer(taken.getsockname()[1])
        with pytest.raises(PortInUse):
            server.start()
        assert not server.is_running()


def test_the_parts_work_together(writer: Path):
    """A function of the sandbox writes to the sandbox's table by its variables alone."""
    environment = {"DYNAMO_TABLE": "carts", "PYTHONPATH": str(writer)}
    functions = [FunctionSpec("writer", "table_writer:handler", environment=environment)]
    with Sandbox(table="carts", functions=functions) as sandbox:
        assert redis.Redis.from_url(sandbox.redis_url).ping()
        assert sandbox.ended_parts() == []
        payload = json.dumps({"records": [{"id": "cart:1", "body": "{}"}]})
        response = sandbox.lambda_client().invoke(FunctionName="writer", Payload=payload)
        assert json.loads(response["Payload"].read()) == {"batchItemFailures": []}
        item = sandbox.dynamodb_client().get_item(TableName="carts", Key={"id": {"S": "cart:1"}})["Item"]
        assert item == {"id": {"S": "cart:1"}, "body": {"S": "{}"}}
        sandbox.valkey.kill()
        assert sandbox.ended_parts() == ["Valkey"]


def test_environment_is_enough_for_boto3():
    """A process with the sandbox's variables reaches it, whatever AWS profile the caller had set."""
    code = (
        "import boto3; print(boto3.client('lambda').get_function(FunctionName='accept')['Configuration']['Version'],"
        "boto3.client('dynamodb').list_tables()['TableNames'])"
    )
    with Sandbox(table="carts", functions=[FunctionSpec("accept", "accept")]) as sandbox:
        base = {**os.environ, "AWS_PROFILE": "missing", "AWS_SESSION_TOKEN": "real"}
        environment = sandbox.child_environment(base)
        assert environment["REDIS_URL"] == sandbox.redis_url
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "$LATEST ['carts']\n", done.stderr


def test_a_part_that_fails_leaves_none_running():
    """If one part can't start, the others are stopped again."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sandbox = Sandbox(lambda_port=taken.getsockname()[1], functions=[FunctionSpec("accept", "accept")])
        with pytest.raises(PortInUse):
            sandbox.start()
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after - before == set()


@pytest.fixture
def started(writer: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``run_sandbox`` in processes of their own, which are gone after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(redis_port: int = 0, json_output: bool = True) -> subprocess.Popen[str]:
        code = RUN.replace("REDIS_PORT", str(redis_port)).replace("JSON", str(json_output))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(writer), str(Path.cwd())])}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return what the process prints first; empty if it ends without."""
    assert process.stdout is not None
    return process.stdout.readline()


def family(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of all that the process has started."""
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_until_signalled(started: Callable[..., subprocess.Popen[str]], number: signal.Signals):
    """The command prints one JSON object, serves until it is signalled, ends with 0 and leaves nothing running."""
    process = started()
    told = json.loads(first_line(process))
    assert redis.Redis.from_url(told["redis_url"]).ping()
    assert told["table"] == "carts"
    assert told["environment"]["AWS_ENDPOINT_URL_LAMBDA"] == told["lambda_endpoint"]
    children = family(process)
    assert len(children) >= 4  # three servers and a worker
    process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT_S_MAX)
    assert (process.returncode, errors) == (0, "")
    assert not any(is_running(pid) for pid in children)


def test_run_prints_exports(started: Callable[..., subprocess.Popen[str]]):
    """Without JSON the command prints the endpoints, and lines that a shell takes."""
    process = started(json_output=False)
    line = first_line(process)
    assert line.startswith("Valkey")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    output = process.stdout.read()
    exports = "\n".join(line for line in output.splitlines() if line.startswith(("export ", "unset ")))
    shell = subprocess.run(
        ["/bin/sh", "-c", f'{exports}\necho "$REDIS_URL"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout.strip() == line.split()[1]


def test_run_ends_when_a_part_dies(started: Callable[..., subprocess.Popen[str]]):
    """A part that dies is named, the rest is stopped, and the command ends with 1."""
    process = started()
    url = json.loads(first_line(process))["redis_url"]
    children = family(process)
    os.kill(int(redis.Redis.from_url(url).info("server")["process_id"]), signal.SIGKILL)
    _, errors = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 1
    assert errors == "sandbox: Valkey ended by itself; stopping the rest\n"
    assert not any(is_running(pid) for pid in children)


def test_run_with_a_port_in_use(started: Callable[..., subprocess.Popen[str]]):
    """A port in use is one line with its remedy, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = started(redis_port=taken.getsockname()[1])
        output, errors = process.communicate(timeout=WAIT_S_MAX)
    assert (process.returncode, output) == (1, "")
    assert "is in use" in errors
    assert "--redis-port 0" in errors
    assert errors.count("\n") == 1


def test_nothing_is_left_when_the_parent_is_killed(started: Callable[..., subprocess.Popen[str]]):
    """SIGKILL of the process that holds the sandbox ends all servers and workers, and no temporary folder stays."""
    process = started()
    first_line(process)
    children = family(process)
    assert len(children) >= 4
    (folder,) = [Path(psutil.Process(pid).cwd()) for pid in children if "valkey" in psutil.Process(pid).name()]
    process.kill()
    poll(lambda: not any(is_running(pid) for pid in children))
    poll(lambda: not folder.exists())
