"""A call that takes effect after its invocation timed out, and after a newer value: on a running DynamoDB."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.sandbox.aws import sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from lambdas.contract import Deadline, Record
from lambdas.dynamodb.client import Client
from lambdas.dynamodb.handler import write, writer_of
from lambdas.dynamodb.settings import Settings
from lambdas.repeats import TimeLeft
from lambdas.serving import now_ms

TABLE = "late"
LATE_EFFECT_MS = 2_500


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoDbServer]:
    with DynamoDbServer() as server:
        server.create_table(TABLE)
        yield server


class HoldingProxy:
    """Passes connections on to DynamoDB, but holds what the first one sends until it is let go."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.let_go = threading.Event()
        self.answered = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        first = True
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(connection, first), daemon=True).start()
            first = False

    def _pass_on(self, connection: socket.socket, is_held: bool) -> None:
        with connection, socket.create_connection(("127.0.0.1", self._port)) as onward:
            if is_held:
                data = connection.recv(1 << 16)
                self.let_go.wait(30)
                onward.sendall(data)
                onward.recv(1 << 16)
                self.answered.set()
                return
            threading.Thread(target=pump, args=(onward, connection), daemon=True).start()
            pump(connection, onward)

    def close(self) -> None:
        self._listener.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


@pytest.fixture
def proxy(server: DynamoDbServer) -> Iterator[HoldingProxy]:
    proxy = HoldingProxy(int(server.endpoint.rpartition(":")[2]))
    yield proxy
    proxy.close()


def deliver(endpoint: str, settings: Settings, key: str, body: str, version: int) -> None:
    """Write one value, by a container of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox_environment(dynamodb_endpoint=endpoint).items():
            patch.setenv(name, value)
        client = Client(settings)
    time_left = TimeLeft(lambda: 60_000, Deadline(now_ms() + 20_000), now_ms)
    record = Record("0", key, key, body, version=version)
    assert write(settings, writer_of(settings)(client, settings), [record], time_left) == {}
    client.close()


def body_of(server: DynamoDbServer, key: str) -> Any:
    return server.client().get_item(TableName=TABLE, Key={"id": {"S": key}}, ConsistentRead=True)["Item"]["body"]["S"]


@pytest.mark.parametrize("item_mode", ["body", "attributes"])
def test_versions_refuse_a_late_effect(server: DynamoDbServer, proxy: HoldingProxy, item_mode: str) -> None:
    """The held call reaches DynamoDB long after a newer value was written, and changes nothing."""
    settings = Settings(TABLE, item_mode, write_mode="versioned", read_timeout_ms=700)
    key = f"versioned:{item_mode}"
    held = threading.Thread(target=deliver, args=(proxy.endpoint, settings, key, '{"f":"older"}', 1))
    held.start()
    held.join(20)
    deliver(server.endpoint, settings, key, '{"f":"newer"}', 2)
    proxy.let_go.set()
    assert proxy.answered.wait(10)
    item = server.client().get_item(TableName=TABLE, Key={"id": {"S": key}})["Item"]
    assert item["version"] == {"N": "2"}


@pytest.mark.parametrize(("late_effect_ms", "stays"), [(LATE_EFFECT_MS, '{"f":"newer"}'), (0, '{"f":"older"}')])
def test_batch_mode_outlives_a_late_effect(
    server: DynamoDbServer, proxy: HoldingProxy, late_effect_ms: int, stays: str
) -> None:
    """The function answers only when the held call can do no more: the newer value comes after it."""
    settings = Settings(TABLE, read_timeout_ms=700, late_effect_ms=late_effect_ms)
    key = f"batch:{late_effect_ms}"
    answered = threading.Thread(target=deliver, args=(proxy.endpoint, settings, key, '{"f":"older"}', 1))
    answered.start()
    if late_effect_ms:
        # The network holds the call for less than the bound that the settings name.
        time.sleep((LATE_EFFECT_MS - 500) / 1_000)
        assert answered.is_alive()
        proxy.let_go.set()
    answered.join(20)
    deliver(server.endpoint, settings, key, '{"f":"newer"}', 2)
    proxy.let_go.set()
    assert proxy.answered.wait(10)
    assert body_of(server, key) == stays
