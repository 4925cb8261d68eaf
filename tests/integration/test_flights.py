"""Invocations on the invoker's loop, over real sockets: in pieces, side by side, on connections that end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aws import access
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.model import Failure
from tests.faulty_service import Script, answers, in_tls, is_silent, read_request, serving
from tests.lambda_service import WAIT_S, InTheLoop
from tests.tls_proxy import Certificates, make_certificates

LARGE = b'{"records":[],"filler":"' + b"x" * 5_000_000 + b'"}'
SMALL = b'{"records":[]}'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> Iterator[None]:
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    monkeypatch.setattr(access, "_known", {})
    yield


def reaching(port: int, scheme: str = "http", **delivery: int) -> InTheLoop:
    aws = AwsSettings("us-east-1", f"{scheme}://127.0.0.1:{port}")
    delivery_settings = DeliverySettings(**delivery)
    return InTheLoop(LambdaTarget("f", aws, delivery_settings, report_item_failures=True, connections_max=4))


def reads_slowly(sock: socket.socket) -> None:
    """Read a request in small pieces with rests, so that its sender has to wait; answer with its size."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(1_000)
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    read = len(body)
    while read < size:
        time.sleep(0.001)
        read += len(sock.recv(200_000))
    sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"batchItemFailures":[]}')


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_that_does_not_fit_at_once_is_sent_in_pieces(certificates: Certificates, scheme: str) -> None:
    """Megabytes go out as the other side takes them, in the clear and in TLS, and the loop goes on meanwhile."""
    script: Script = reads_slowly if scheme == "http" else in_tls(certificates, reads_slowly)
    with serving(script) as port:
        loop = reaching(port, scheme)
        assert loop.invoke(LARGE).failure is Failure.NONE


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_large_answer_is_read_whole(certificates: Certificates, scheme: str) -> None:
    """An answer of megabytes comes whole, also what TLS has decrypted before a poll could tell."""
    body = b'{"batchItemFailures":[' + b",".join(b'{"itemIdentifier":"%d"}' % n for n in range(100_000)) + b"]}"
    script = answers(200, body)
    with serving(script if scheme == "http" else in_tls(certificates, script)) as port:
        outcome = reaching(port, scheme).invoke(SMALL)
    assert (outcome.failure, len(outcome.failed_ids)) == (Failure.ITEMS, 100_000)


def test_an_answer_before_the_request_is_read_counts() -> None:
    """A server that refuses a body does so before it has read it: that is its answer, and ends the connection."""
    heard = threading.Event()

    def refuses(sock: socket.socket) -> None:
        sock.recv(1_000)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        # To close it now would break it, with what is unread here.
        heard.wait(WAIT_S)

    with serving(refuses) as port:
        loop = reaching(port)
        assert loop.invoke(LARGE).failure is Failure.OVERSIZE
        heard.set()
        assert loop.flights.requests.idle == []


def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    """Nothing was sent on it, so nothing failed."""
    heads: list[bytes] = []

    def answers_once(sock: socket.socket) -> None:
        heads.append(read_request(sock))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")

    with serving(answers_once) as port:
        loop = reaching(port)
        for _ in range(5):
            assert loop.invoke(SMALL).failure is Failure.NONE
            time.sleep(0.02)
    assert len(heads) == 5


def test_invocations_are_under_way_side_by_side() -> None:
    """One that is silent ends at its own deadline; those beside it have their answers long before."""
    turns = iter([is_silent, answers(200, b"null"), answers(200, b"null")])
    with serving(lambda sock: next(turns)(sock)) as port:
        loop = reaching(port, invoke_timeout_ms=600)
        loop.start(SMALL)
        deadline = time.monotonic() + WAIT_S
        while not loop.flights.requests.under_way:
            assert time.monotonic() < deadline
            loop.turn()
        for _ in range(2):
            loop.start(SMALL)
        while len(loop.ended) < 3:
            assert time.monotonic() < deadline
            loop.turn()
    assert [one.failure for one in loop.ended] == [Failure.NONE, Failure.NONE, Failure.TIMEOUT]
    assert loop.ended[2].is_lost
    assert loop.sockets.next_expiry_ms() is None


def test_credentials_that_are_slow_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever waits for credentials waits in a helper thread: the loop turns, and other functions are invoked."""
    gate = tmp_path / "gate"
    script = tmp_path / "slow.sh"
    script.write_text(
        f"while [ ! -e {gate} ]; do sleep 0.02; done\n"
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"a\\", \\"SecretAccessKey\\": \\"s\\"}"\n'
    )
    with serving(answers(200, b"null")) as port:
        quick = reaching(port)
        assert quick.invoke(SMALL).failure is Failure.NONE
        config = tmp_path / "config"
        config.write_text(f"[default]\ncredential_process = sh {script}\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setattr(access, "_known", {})
        slow = reaching(port)
        slow.start(SMALL)
        for _ in range(3):
            slow.turn()
            assert quick.invoke(SMALL).failure is Failure.NONE
        assert slow.ended == []
        gate.touch()
        deadline = time.monotonic() + WAIT_S
        while not slow.ended:
            assert time.monotonic() < deadline
            slow.turn()
    assert slow.ended[0].failure is Failure.NONE


def test_a_released_lane_leaves_no_connection(certificates: Certificates) -> None:
    """Hands that are let go close what is idle, and each other connection with its invocation."""
    released, closed = threading.Event(), threading.Event()

    def waits(sock: socket.socket) -> None:
        read_request(sock)
        released.wait(WAIT_S)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")
        if not sock.recv(1):
            closed.set()

    with serving(waits) as port:
        loop = reaching(port)
        flights = loop.flights
        loop.start(SMALL)
        deadline = time.monotonic() + WAIT_S
        while not flights.requests.under_way:
            assert time.monotonic() < deadline
            loop.turn()
        flights.close()
        released.set()
        while not loop.ended:
            assert time.monotonic() < deadline
            loop.turn()
        assert closed.wait(WAIT_S)
    assert loop.ended[0].failure is Failure.NONE
