"""The embedded DynamoDB under more calls than it can work on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.serving import make_server

from engine.sandbox import aws, dynamodb_server
from engine.sandbox.admission import Admission, has_gone
from engine.sandbox.dynamodb import DynamoDbServer
from tests.support import wait_for


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoDbServer]:
    with DynamoDbServer() as server:
        server.create_table("carts")
        yield server


def item(key: str, version: int) -> dict[str, Any]:
    return {"id": {"S": key}, "body": {"S": "x" * 300}, "version": {"N": str(version)}}


def test_a_call_too_many_is_throttled_as_the_service_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """While all places are taken a client is told ThrottlingException; when one is free again it is answered."""
    monkeypatch.setattr(dynamodb_server, "_admission", Admission(calls_max=1, wait_s_max=0.01))
    begun, go_on = threading.Event(), threading.Event()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        begun.set()
        go_on.wait(60)
        start_response("200 OK", [("Content-Type", "application/x-amz-json-1.0")])
        return [b'{"TableNames":["carts"]}']

    served = make_server("127.0.0.1", 0, application, threaded=True, request_handler=dynamodb_server.KeepAliveHandler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    client = boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{served.port}",
        region_name=aws.REGION,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.list_tables)
        assert begun.wait(60)
        with pytest.raises(ClientError) as caught:
            client.list_tables()
        go_on.set()
        assert first.result(60)["TableNames"] == ["carts"]
    assert caught.value.response["Error"]["Code"] == "ThrottlingException"
    assert client.list_tables()["TableNames"] == ["carts"]
    client.close()
    served.shutdown()


def test_a_call_that_was_given_up_is_not_begun(server: DynamoDbServer) -> None:
    """A caller that closed before its call's turn came finds nothing written."""
    body = json.dumps({"TableName": "carts", "Item": item("given up", 1)}).encode()
    head = (
        f"POST / HTTP/1.1\r\nHost: {server.endpoint.removeprefix('http://')}\r\n"
        "X-Amz-Target: DynamoDB_20120810.PutItem\r\nContent-Type: application/x-amz-json-1.0\r\n"
        "Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, "
        f"Signature=0\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, port = server.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head + body[:-1])
        sock.shutdown(socket.SHUT_WR)
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head + body)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    assert "Item" not in server.client().get_item(TableName="carts", Key={"id": {"S": "given up"}})


def test_a_place_is_given_back() -> None:
    """At most so many are in; one that leaves makes room, and who waits too long is refused."""
    admission = Admission(calls_max=1, wait_s_max=0.01)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with admission.enter() as is_in:
            assert is_in
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(60)
    with admission.enter() as is_in:
        assert not is_in
    leave.set()
    thread.join()
    with admission.enter() as is_in:
        assert is_in


def test_who_has_gone_is_seen() -> None:
    """A caller that waits is there, also with more to say; one that has closed is not."""
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(30)
        assert not has_gone(near)
        far.sendall(b"x")
        assert not has_gone(near)
        assert near.recv(1) == b"x"
        assert near.gettimeout() == 30
        far.close()
        wait_for(lambda: has_gone(near), "the end")
