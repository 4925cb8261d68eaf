"""A DynamoDB whose answers break off, and the function's own client: half an answer is never taken for a whole one."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from botocore.exceptions import ResponseStreamingError

from engine.sandbox import aws
from engine.sandbox.aws import sandbox_environment
from lambdas.aws import refuse_half_answers
from lambdas.contract import Deadline
from lambdas.dynamodb.calls import Write
from lambdas.dynamodb.client import Client
from lambdas.dynamodb.errors import NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.writer import BatchWriter
from lambdas.repeats import TimeLeft, unbounded

ANSWER = b'{"UnprocessedItems": {}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n%bContent-Length: %d\r\n\r\n"


@contextmanager
def service(*cuts: int, head: bytes = b"", text: bytes = ANSWER) -> Iterator[str]:
    """Answer a call each, without so many of its last bytes; yield the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for cut in cuts:
                connection, _ = listener.accept()
                with connection:
                    receive(connection)
                    connection.sendall(HEAD % (head, len(text)) + text[: len(text) - cut])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def receive(connection: socket.socket) -> None:
    data = b""
    while not (size := re.search(rb"(?i)content-length: (\d+)\r\n(?:.+\r\n)*\r\n", data)) or len(
        data
    ) < size.end() + int(size[1]):
        data += connection.recv(65_536)


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Client]:
    def make(endpoint: str) -> Client:
        for name, value in sandbox_environment(dynamodb_endpoint=endpoint).items():
            monkeypatch.setenv(name, value)
        return Client(Settings("table"))

    return make


@pytest.mark.parametrize("cut", [1, 5, len(ANSWER)])
def test_an_answer_that_broke_off_is_no_answer(client_of: Callable[[str], Client], cut: int) -> None:
    """Every answer that is shorter than its length is an error, also where what is left of it could be read."""
    with service(cut) as endpoint, pytest.raises(NoAnswer) as caught:
        client_of(endpoint).call("BatchWriteItem", b"{}", unbounded())
    assert caught.value.is_lost


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"", b"<html>"),
        (b"", b"[]"),
        (b"", b""),
        (b"x-amz-crc32: 1\r\n", ANSWER),
    ],
)
def test_an_answer_that_is_not_dynamodbs_is_no_answer(
    client_of: Callable[[str], Client], head: bytes, text: bytes
) -> None:
    """What is not a JSON object, or has another checksum, is not taken for an answer without anything in it."""
    with service(0, head=head, text=text) as endpoint, pytest.raises(NoAnswer):
        client_of(endpoint).call("BatchWriteItem", b"{}", unbounded())


CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n'


@pytest.mark.parametrize("size", [5, 20, 45, 60, len(CHUNKED) - 1, len(CHUNKED)])
@pytest.mark.parametrize("split", [1, 44, 62])
def test_an_answer_in_chunks(client_of: Callable[[str], Client], size: int, split: int) -> None:
    """It is whole when its last chunk is there, however it arrives; before that it is none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                receive(connection)
                for part in (CHUNKED[:size][:split], CHUNKED[:size][split:]):
                    connection.sendall(part)
                    time.sleep(0.01)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = client_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
        if size == len(CHUNKED):
            assert client.call("BatchWriteItem", b"{}", unbounded()) == {"a": 1}
        else:
            with pytest.raises(NoAnswer):
                client.call("BatchWriteItem", b"{}", unbounded())
        thread.join()


def test_a_batch_whose_answer_broke_off_is_written_again(client_of: Callable[[str], Client]) -> None:
    """Nobody knows what of it was left unprocessed, so all of it is sent again, until an answer is whole."""
    with service(5, 1, 0) as endpoint:
        writer = BatchWriter(client_of(endpoint), Settings("table"), sleep=lambda seconds: None)
        write = Write("cart:1", {"id": {"S": "cart:1"}}, 10)
        assert writer.write([write], TimeLeft(lambda: 60_000, Deadline(), lambda: 0)) == {}


def test_a_refused_connection_is_not_lost(client_of: Callable[[str], Client]) -> None:
    """A call that never set out has no late effect to wait for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswer) as caught:
        client_of(f"http://127.0.0.1:{port}").call("BatchWriteItem", b"{}", unbounded())
    assert not caught.value.is_lost


def test_boto3_takes_no_half_answer_either() -> None:
    """Clients of boto3 that were told to refuse half answers raise."""
    with service(len(ANSWER)) as endpoint, pytest.raises(ResponseStreamingError):
        refuse_half_answers(aws.client("dynamodb", endpoint)).describe_limits()
