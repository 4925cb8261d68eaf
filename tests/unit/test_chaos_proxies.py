"""The chaos suite's proxies do the harm that they are asked to do, and no other."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.proxies import http_proxy
from tests.chaos.proxies.http_proxy import (
    Answer,
    BlackHole,
    DelayedEffect,
    HttpFaultProxy,
    MangleAnswer,
    Pass,
    PassThenReset,
    Reset,
)
from tests.chaos.proxies.redis_proxy import ClockShift, RedisProxy

WAIT_S = 20.0
NOW = b"*2\r\n$10\r\n1763890010\r\n$6\r\n123456\r\n"
EARLIER = b"*2\r\n$10\r\n1763886410\r\n$6\r\n123456\r\n"


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"did not come about: {what}"
        time.sleep(0.01)


class Echo(socketserver.BaseRequestHandler):
    """Answers every piece with the server's name and the piece; TIME with the time."""

    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.server.seen += len(data)  # type: ignore[attr-defined]
            self.request.sendall(NOW if data == b"TIME\r\n" else self.server.name + data)  # type: ignore[attr-defined]


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.name, self.seen = name, 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextmanager
def echo(name: bytes = b"1") -> Iterator[EchoServer]:
    with EchoServer(name) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def connected(proxy: RedisProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), WAIT_S)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(65_536)


def test_bytes_pass() -> None:
    """Without a fault a server is spoken to as if there were no proxy."""
    with echo() as server, RedisProxy(server.port) as proxy, closing(connected(proxy)) as connection:
        assert ask(connection, b"hello") == b"1hello"
        assert proxy.connections == 1
        connection.close()
        wait_for(lambda: proxy.connections == 0, "the connection is gone")


def test_many_bytes_pass() -> None:
    """What one side can't take yet is waited for, and nothing of it is lost."""
    data = bytes(range(256)) * 4_096 * 16
    with socket.create_server(("127.0.0.1", 0)) as listener, RedisProxy(listener.getsockname()[1]) as proxy:
        with closing(connected(proxy)) as near:
            far, _ = listener.accept()
            with far:
                threading.Thread(target=far.sendall, args=(data,), daemon=True).start()
                received = bytearray()
                while len(received) < len(data):
                    received += near.recv(65_536)
        assert bytes(received) == data


def test_retarget() -> None:
    """When the endpoint moves, connections are dropped, and new ones lead to the other server."""
    with echo(b"1") as old, echo(b"2") as new, RedisProxy(old.port) as proxy:
        with closing(connected(proxy)) as connection:
            assert ask(connection, b"a") == b"1a"
            assert proxy.retarget(new.port) == 1
            assert connection.recv(10) == b""
        with closing(connected(proxy)) as connection:
            assert ask(connection, b"a") == b"2a"


def test_reset_all() -> None:
    """A reset is seen as a reset, not as an end."""
    with echo() as server, RedisProxy(server.port) as proxy, closing(connected(proxy)) as connection:
        ask(connection, b"a")
        assert proxy.reset_all() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(10)


def test_black_hole() -> None:
    """In a black hole nothing arrives and nobody is told; a connection that lost bytes in it never answers again."""
    with echo() as server, RedisProxy(server.port) as proxy, closing(connected(proxy)) as old:
        ask(old, b"a")
        proxy.black_hole(True)
        old.sendall(b"lost")
        with closing(connected(proxy)) as within:
            within.sendall(b"lost too")
            wait_for(lambda: proxy.counts["swallowed_bytes"] == 12, "both are swallowed")
        proxy.black_hole(False)
        with closing(connected(proxy)) as new:
            assert ask(new, b"b") == b"1b"
        old.sendall(b"again")
        wait_for(lambda: proxy.counts["swallowed_bytes"] == 17, "it goes on swallowing")
        assert server.seen == 2


def test_refuse() -> None:
    """A port that refuses drops what it had, and listens again on request."""
    with echo() as server, RedisProxy(server.port) as proxy, closing(connected(proxy)) as connection:
        ask(connection, b"a")
        assert proxy.refuse(True) == 1
        assert connection.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.refuse(False)
        with closing(connected(proxy)) as again:
            assert ask(again, b"b") == b"1b"


def test_shifted_time() -> None:
    """Only replies of TIME are changed."""
    with echo() as server, RedisProxy(server.port) as proxy, closing(connected(proxy)) as connection:
        assert ask(connection, b"TIME\r\n") == NOW
        proxy.shift_time_s(-3_600)
        assert ask(connection, b"TIME\r\n") == EARLIER
        assert ask(connection, b"$10\r\n1763890010\r\n") == b"1$10\r\n1763890010\r\n"
        assert proxy.counts["times_shifted"] == 1


REPLY = st.one_of(
    st.just(NOW),
    st.just(b"*2\r\n$2\r\nab\r\n$2\r\n12\r\n"),
    st.just(b"$10\r\n1763890010\r\n"),
    st.just(b":2\r\n"),
    st.just(b"*2\r\n$10\r\nabcdefghij\r\n$6\r\n123456\r\n"),
    st.binary(max_size=20).map(lambda value: b"$%d\r\n%s\r\n" % (len(value), value)),
)


@given(st.lists(REPLY, max_size=20), st.lists(st.integers(1, 50), max_size=40))
def test_time_in_a_stream(replies: list[bytes], sizes: list[int]) -> None:
    """However a stream of replies is cut, all times in it are changed, nothing else is, and nothing stays behind."""
    stream, clock, passed = b"".join(replies), ClockShift(), b""
    for size in sizes:
        passed += clock.rewrite(stream[:size], -3_600)
        stream = stream[size:]
    passed += clock.rewrite(stream, -3_600)
    assert passed == b"".join(EARLIER if reply == NOW else reply for reply in replies)
    assert clock.rest() == b""


def test_stall() -> None:
    """A stalled subscription holds up its server; other connections go on, and afterwards all of it arrives."""
    piece = b"x" * 65_536
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RedisProxy(listener.getsockname()[1]) as proxy,
        closing(connected(proxy)) as subscriber,
        closing(connected(proxy)) as other,
    ):
        # Whichever of the two was connected first: the one that receives is the subscriber's.
        ends = [listener.accept()[0] for _ in range(2)]
        other.sendall(b"GET\r\n")
        subscriber.sendall(b"*2\r\n$10\r\nPSUBSCRIBE\r\n$1\r\n*\r\n")
        first = ends[0].recv(100)
        far, far_other = ends if b"PSUBSCRIBE" in first else reversed(ends)
        wait_for(lambda: proxy.subscriptions == 1, "seen as a subscription")
        assert proxy.stall(True) == 1
        far.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 28:
                sent += far.send(piece)
        far_other.sendall(b"$1\r\na\r\n")
        assert other.recv(100) == b"$1\r\na\r\n"
        assert proxy.stall(False) == 1
        received = 0
        while received < sent:
            received += len(subscriber.recv(1 << 20))
        assert received == sent
        for end in ends:
            end.close()


def test_server_gone() -> None:
    """Where no server listens, a connection is broken at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    # It may be broken before it is known to be made.
    with (
        RedisProxy(port) as proxy,
        pytest.raises(ConnectionResetError),
        closing(connected(proxy)) as connection,
    ):
        connection.recv(10)


class Service(BaseHTTPRequestHandler):
    """Notes every request, and answers it with what it was."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, body))  # type: ignore[attr-defined]
        answer = json.dumps({"path": self.path, "size": len(body), "wanted": self.headers["X-Wanted"]}).encode()
        self.send_response(200)
        self.send_header("X-Served", "yes")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


class RecordingServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Service)
        self.seen: list[tuple[str, bytes]] = []


@pytest.fixture
def service() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(service: RecordingServer) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(f"http://127.0.0.1:{service.server_address[1]}") as made:
        yield made


def client(proxy: HttpFaultProxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=WAIT_S)


def post(connection: http.client.HTTPConnection, body: bytes = b"body", path: str = "/a%3Ab?c=%2F") -> Any:
    connection.request("POST", path, body, {"X-Wanted": "this"})
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def test_pass(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """A request and its answer pass as they are, one after another on one connection."""
    connection = client(proxy)
    for _ in range(3):
        status, headers, body = post(connection)
        assert (status, headers["X-Served"]) == (200, "yes")
        assert json.loads(body) == {"path": "/a%3Ab?c=%2F", "size": 4, "wanted": "this"}
    assert service.seen == [("/a%3Ab?c=%2F", b"body")] * 3
    assert proxy.struck == {"Pass": 3}


def test_large_and_many(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """Payloads of 6 MB pass, and many requests at once."""
    large = bytes(6 * 1024 * 1024)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda size: post(client(proxy), large[:size]), [len(large)] * 8 + [10] * 200))
    assert {status for status, _, _ in answers} == {200}
    assert sorted(len(body) for _, body in service.seen) == [10] * 200 + [len(large)] * 8


def test_answer(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """An answer of the proxy's own comes without the service's knowing, and the connection stays open."""
    proxy.rule = lambda request: Answer(429, {"Retry-After": "1"}, b"{}") if request.number == 1 else Pass()
    connection = client(proxy)
    status, headers, body = post(connection)
    assert (status, headers["Retry-After"], body) == (429, "1", b"{}")
    assert not service.seen
    assert post(connection)[0] == 200
    assert proxy.struck == {"Answer": 1, "Pass": 1}


def test_cut_answer(proxy: HttpFaultProxy) -> None:
    """An answer can break off in its middle."""
    proxy.rule = lambda request: Answer(200, {}, b"0123456789", cut=4)
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(client(proxy))
    assert caught.value.partial == b"0123"


def test_pass_then_reset(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """The effect without the answer."""
    proxy.rule = lambda request: PassThenReset()
    with pytest.raises(ConnectionResetError):
        post(client(proxy))
    assert service.seen == [("/a%3Ab?c=%2F", b"body")]
    assert proxy.struck == {"PassThenReset": 1}


def test_delayed_effect(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """No answer, and the effect later."""
    proxy.rule = lambda request: DelayedEffect(0.3)
    with pytest.raises(ConnectionResetError):
        post(client(proxy))
    assert not service.seen
    assert proxy.effects_waiting == 1
    wait_for(lambda: proxy.effects == [200], "the late effect")
    assert service.seen == [("/a%3Ab?c=%2F", b"body")]
    assert proxy.effects_waiting == 0


@pytest.mark.parametrize("action", [Reset(), BlackHole(0.2)])
def test_no_effect(service: RecordingServer, proxy: HttpFaultProxy, action: http_proxy.Action) -> None:
    """A reset, at once or after a silence, has no effect."""
    proxy.rule = lambda request: action
    with pytest.raises(ConnectionResetError):
        post(client(proxy))
    assert not service.seen


def test_mangle(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """The request's body and the service's answer can be changed on their way."""

    def mangle(answer: Answer) -> Answer:
        return Answer(answer.status, answer.headers, answer.body.upper())

    proxy.rule = lambda request: MangleAnswer(mangle, request.body[:2])
    status, headers, body = post(client(proxy))
    assert (status, headers["X-Served"]) == (200, "yes")
    assert json.loads(body) == {"PATH": "/A%3AB?C=%2F", "SIZE": 2, "WANTED": "THIS"}
    assert service.seen == [("/a%3Ab?c=%2F", b"bo")]


def test_refused_connections(service: RecordingServer, proxy: HttpFaultProxy) -> None:
    """A service that is gone refuses connections, and drops those that were open."""
    connection = client(proxy)
    post(connection)
    proxy.refuse(True)
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        post(connection)
    with pytest.raises(ConnectionRefusedError):
        post(client(proxy))
    proxy.refuse(False)
    assert post(client(proxy))[0] == 200


def test_a_failing_rule_shows(proxy: HttpFaultProxy) -> None:
    """A mistake in a rule is not taken for a fault."""
    proxy.rule = lambda request: 1 / 0  # type: ignore[assignment, return-value]
    status, _, _ = post(client(proxy))
    assert status == 500
    assert not proxy.struck
    assert "ZeroDivisionError" in proxy.failures[0]


def test_service_gone(service: RecordingServer) -> None:
    """Where no service listens, the connection is broken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with HttpFaultProxy(f"http://127.0.0.1:{port}") as proxy, pytest.raises(ConnectionResetError):
        post(client(proxy))
