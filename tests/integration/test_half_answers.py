"""A DynamoDB whose answers break off, and the function's own client: half an answer is never taken for a whole one."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ResponseStreamingError

from lambdas.aws import refuse_half_answers
from lambdas.contract import Deadline
from lambdas.dynamodb.calls import TimeLeft, Write
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.writer import BatchWriter

ANSWER = b'{"UnprocessedItems": {}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def service(*cuts: int) -> Iterator[str]:
    """Answer a call each, without so many of its last bytes; yield the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for cut in cuts:
                connection, _ = listener.accept()
                with connection:
                    receive(connection)
                    connection.sendall(HEAD % len(ANSWER) + ANSWER[: len(ANSWER) - cut])

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


def client_of(endpoint: str) -> object:
    return refuse_half_answers(
        boto3.client(
            "dynamodb",
            region_name="eu-west-1",
            endpoint_url=endpoint,
            aws_access_key_id="none",
            aws_secret_access_key="none",
            config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
        )
    )


@pytest.mark.parametrize("cut", [1, 5, len(ANSWER)])
def test_an_answer_that_broke_off_is_an_error(cut: int) -> None:
    """Every answer that is shorter than its length is an error, also where what is left of it could be read."""
    with service(cut) as endpoint, pytest.raises(ResponseStreamingError):
        client_of(endpoint).batch_write_item(RequestItems={"table": []})  # type: ignore[attr-defined]


def test_a_batch_whose_answer_broke_off_is_written_again() -> None:
    """Nobody knows what of it was left unprocessed, so all of it is sent again, until an answer is whole."""
    with service(5, 1, 0) as endpoint:
        writer = BatchWriter(client_of(endpoint), Settings("table"), sleep=lambda seconds: None)
        write = Write("cart:1", {"PutRequest": {"Item": {"id": {"S": "cart:1"}}}}, 10)
        assert writer.write([write], TimeLeft(lambda: 60_000, Deadline(), lambda: 0)) == {}
