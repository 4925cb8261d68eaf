"""A service that breaks where a test says: connections served by scripts, in the clear, in TLS, in a tunnel."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.tls_proxy import Certificates

Script = Callable[[socket.socket], None]
"""Serves one connection, from its first byte; the connection is closed after it."""

_LINGER_NOT = struct.pack("ii", 1, 0)


@contextmanager
def serving(script: Script) -> Iterator[int]:
    """Yield a port whose connections are served by the script."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, script), daemon=True).start()
        yield listener.getsockname()[1]


@contextmanager
def nobody() -> Iterator[int]:
    """Yield a port that refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def unanswered() -> Iterator[int]:
    """Yield a port where no connection comes to be: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


def _accept(listener: socket.socket, script: Script) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(sock, script), daemon=True).start()


def _serve(sock: socket.socket, script: Script) -> None:
    with sock, suppress(OSError):
        sock.settimeout(30)
        script(sock)


def read_request(sock: socket.socket) -> bytes:
    """Read one request whole; return its head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65_536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0]) - len(body) if lengths else 0
    while missing > 0:
        missing -= len(sock.recv(65_536))
    return head


def answers(status: int, body: bytes = b"", *headers: str, cut: int = 0) -> Script:
    """Answer a request; ``cut`` so many bytes short."""

    def script(sock: socket.socket) -> None:
        read_request(sock)
        lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", *headers, "", ""]
        sock.sendall("\r\n".join(lines).encode() + body[: len(body) - cut])

    return script


def closes(sock: socket.socket) -> None:
    """Read a request, and close without an answer."""
    read_request(sock)


def resets(sock: socket.socket) -> None:
    """Read a request, and break the connection with a RST."""
    read_request(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def is_silent(sock: socket.socket) -> None:
    """Read a request, and say nothing until the other side has gone."""
    read_request(sock)
    sock.recv(1)


def breaks_tls(sock: socket.socket) -> None:
    """Read a request, and send what is no TLS record."""
    assert isinstance(sock, ssl.SSLSocket)
    read_request(sock)
    plain = socket.socket(fileno=sock.detach())
    with plain:
        plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)


def in_tls(certificates: Certificates, script: Script) -> Script:
    """Serve in TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def wrapped(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as near:
            script(near)

    return wrapped


def tunnels(script: Script) -> Script:
    """Take a CONNECT for done, and serve what comes after it."""

    def tunnel(sock: socket.socket) -> None:
        assert read_request(sock).startswith(b"CONNECT ")
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        script(sock)

    return tunnel


def relays(port: int) -> Script:
    """Take a CONNECT, and pass bytes both ways between its sender and this port, whatever place it named."""

    def relay(sock: socket.socket) -> None:
        assert read_request(sock).startswith(b"CONNECT ")
        with socket.create_connection(("127.0.0.1", port)) as far:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pass, args=(far, sock), daemon=True).start()
            _pass(sock, far)

    return relay


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
