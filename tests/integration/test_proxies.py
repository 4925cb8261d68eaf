"""Proxies as the environment names them, with a port or without, in the clear or in TLS."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.targets.make import make_target
from engine.model import Failure
from lambdas.connections import Connections, NotConnected
from tests.faulty_service import answers, in_tls, read_request, relays, serving
from tests.tls_proxy import Certificates, make_certificates, tls_in_front_of


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> Iterator[pytest.MonkeyPatch]:
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setattr("engine.aws.access._known", {})
    # One certificate for all, which names this host alone; a proxy of this host would be passed by.
    monkeypatch.setattr("lambdas.connections.proxy_bypass", lambda host: False)
    yield monkeypatch


def ask(endpoint: str) -> bytes:
    connections = Connections(endpoint, 5.0)
    try:
        status, _, body = connections.post(lambda: ({}, 5.0), b"{}")
        status_again, _, _ = connections.post(lambda: ({}, 5.0), b"{}")
    finally:
        connections.close()
    assert status == status_again == 200
    return body


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tunnel_leads_to_the_service(
    surroundings: pytest.MonkeyPatch, certificates: Certificates, scheme: str
) -> None:
    """Functions and the engine reach a service in TLS through a proxy, which may want TLS itself."""

    def answers_twice(sock: socket.socket) -> None:
        # One that closed after its answer would be seen as closed only when that has come through the tunnel.
        for _ in range(2):
            answers(200, b'{"a":1}')(sock)

    with ExitStack() as stack:
        service = stack.enter_context(serving(in_tls(certificates, answers_twice)))
        proxy = stack.enter_context(serving(relays(service)))
        if scheme == "https":
            proxy = stack.enter_context(tls_in_front_of(proxy, certificates))
        surroundings.setenv("https_proxy", f"{scheme}://user:p%40w@127.0.0.1:{proxy}")
        endpoint = f"https://127.0.0.1:{service}"
        assert orjson.loads(ask(endpoint)) == {"a": 1}
        aws = AwsSettings("eu-west-1", endpoint)
        target = make_target(RouteSettings("r", "f"), aws, DeliverySettings())
        outcome = target.invoke(b'{"records":[]}')
        target.close()
    assert outcome.failure is Failure.NONE, outcome


@pytest.mark.parametrize(
    ("proxy", "port"),
    [("http://127.0.0.1", 80), ("127.0.0.1", 80), ("https://127.0.0.1", 443), ("http://127.0.0.1:3128", 3128)],
)
def test_a_proxy_without_a_port_has_its_schemes(surroundings: pytest.MonkeyPatch, proxy: str, port: int) -> None:
    """Without a port http:// means 80, and https:// 443."""
    asked: list[int] = []

    def refuse(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address[1])
        raise ConnectionRefusedError

    surroundings.setenv("https_proxy", proxy)
    surroundings.setattr("lambdas.connections.socket.create_connection", refuse)
    with pytest.raises(NotConnected):
        ask("https://dynamodb.eu-west-1.amazonaws.com")
    assert asked == [port]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_is_no_connection(surroundings: pytest.MonkeyPatch, proxy: str) -> None:
    """A scheme that is not known, or a port that is none, is told as a connection that could not be made."""
    surroundings.setenv("https_proxy", proxy)
    with pytest.raises(NotConnected):
        ask("https://dynamodb.eu-west-1.amazonaws.com")


def test_a_tunnel_that_is_refused_is_no_connection(surroundings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy that wants other credentials is named; it was told ours."""
    heads: list[bytes] = []

    def refuses(sock: socket.socket) -> None:
        heads.append(read_request(sock))
        sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with serving(refuses) as port:
        surroundings.setenv("https_proxy", f"http://user:p%40w@127.0.0.1:{port}")
        with pytest.raises(NotConnected, match="407"):
            ask("https://dynamodb.eu-west-1.amazonaws.com")
    assert heads[0].startswith(b"CONNECT dynamodb.eu-west-1.amazonaws.com:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHc=" in heads[0]
