"""HTTP connections to one endpoint that stay open: what an AWS client needs of HTTP, and no more.

A proxy is asked for a tunnel, in the clear or in TLS of its own. Answers are read in a quarter of `http.client`'s time:
they have one shape, a head and as many bytes as it says. A call takes a third of the CPU of botocore's session.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers (their names in lower case) and body."""

_PORTS = {"http": 80, "https": 443}
HEAD_BYTES_MAX = 65_536
_CHUNK_BYTES = 65_536


Asked = Callable[[], tuple[Mapping[str, str], float]]
"""Returns a request's headers, and for how many seconds it may take; what it raises ends the call before its start."""


class NotConnected(OSError):
    """No connection could be made, so nothing has been sent."""


class Connections:
    """Idle connections, and new ones where there are none; threads may share them."""

    def __init__(self, endpoint: str, connect_timeout_s: float) -> None:
        self._endpoint = urlsplit(endpoint)
        self.host = self._endpoint.netloc
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[socket.socket] = deque()
        self._tls: ssl.SSLContext | None = None
        if self._endpoint.scheme == "https":
            # Also where SSL_CERT_FILE says; None is what the system trusts.
            bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or None
            self._tls = ssl.create_default_context(cafile=bundle)

    def post(self, asked: Asked, body: bytes) -> Answer:
        """Send one request to ``/``; return its answer.

        ``asked`` is called once there is a connection, just before the first byte: a name server may have taken any
        time. Raises `NotConnected`; or another OSError, and then nobody knows what became of the request.
        """
        sock = self._take()
        try:
            headers, timeout_s = asked()
        except BaseException:
            # The next call need not wait for a connection.
            self._idle.append(sock)
            raise
        try:
            until = time.monotonic() + timeout_s
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            sock.settimeout(timeout_s)
            head = f"POST / HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
            sock.sendall(head.encode() + body)
            answer = _read_answer(sock, until)
        except BaseException:
            sock.close()
            raise
        if answer[1].get("connection", "").lower() == "close":
            sock.close()
        else:
            self._idle.append(sock)
        return answer

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> socket.socket:
        while True:
            try:
                sock = self._idle.pop()
            except IndexError:
                return self._connect()
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            # Nothing is due on an idle connection but its end.
            if not poll.poll(0):
                return sock
            sock.close()

    def _connect(self) -> socket.socket:
        try:
            return self._connected()
        except (OSError, ValueError) as error:
            # ValueError: a proxy's port that is none, a name that can't be encoded.
            raise NotConnected(f"no connection to {self.host}: {error}") from error

    def _connected(self) -> socket.socket:
        host = self._endpoint.hostname or ""
        if self._tls is None:
            return self._open(host, self._endpoint.port or 80)
        port = self._endpoint.port or 443
        proxy = _proxy_of(host)
        if proxy is None:
            return self._secured(self._open(host, port), host)
        if proxy.scheme not in _PORTS:
            raise OSError("the proxy's scheme is neither http nor https: see HTTPS_PROXY")
        name = proxy.hostname or ""
        sock = self._open(name, proxy.port or _PORTS[proxy.scheme])
        if proxy.scheme == "https":
            sock = self._secured(sock, name)
        try:
            _ask_for_tunnel(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", _authorization(proxy))
        except BaseException:
            sock.close()
            raise
        return self._secured(sock, host)

    def _open(self, host: str, port: int) -> socket.socket:
        sock = socket.create_connection((host, port), self._connect_timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _secured(self, sock: socket.socket, host: str) -> socket.socket:
        """Return the socket in TLS; it may be in TLS already, a proxy's."""
        assert self._tls is not None
        try:
            if not isinstance(sock, ssl.SSLSocket):
                return self._tls.wrap_socket(sock, server_hostname=host)
            # Of all that comes with botocore the one part that puts TLS into TLS.
            from urllib3.util.ssltransport import SSLTransport

            within: Any = SSLTransport(sock, self._tls, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        return cast("socket.socket", within)


def _ask_for_tunnel(sock: socket.socket, place: str, headers: Mapping[str, str]) -> None:
    """Have a proxy connect to a place; raise OSError if it does not."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{lines}\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(_CHUNK_BYTES)
        if not more or len(data) > HEAD_BYTES_MAX:
            raise OSError("the proxy closed the connection")
        data += more
    first = data.partition(b"\r\n")[0].decode("latin-1")
    if not first.startswith("HTTP/1.") or first[9:12] != "200":
        raise OSError(f"the proxy refuses a tunnel: {first[:80]}")


def _read_answer(sock: socket.socket, until: float) -> Answer:
    """Return an answer that is whole; raise OSError if it is not, or not in time (monotonic s)."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise OSError("the answer's header has no end")
        data += _receive(sock, until)
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    protocol, _, status = first[:12].partition(" ")
    size = headers.get("content-length", "")
    if protocol not in {"HTTP/1.1", "HTTP/1.0"} or not status.isdigit():
        raise OSError(f"this is not HTTP: {first[:80]!r}")
    if protocol == "HTTP/1.0":
        headers["connection"] = "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return int(status), headers, _read_chunks(sock, data[end + 4 :], until)
    if not size.isdigit():
        # Where the end is the connection's, nobody can tell a whole answer from half of one.
        raise OSError("the answer does not state its length")
    parts = [data[end + 4 :]]
    missing = int(size) - len(parts[0])
    while missing > 0:
        parts.append(_receive(sock, until))
        missing -= len(parts[-1])
    if missing:
        raise OSError("the answer is longer than its header says")
    return int(status), headers, b"".join(parts)


def _read_chunks(sock: socket.socket, data: bytes, until: float) -> bytes:
    """Return a body that comes in chunks; AWS sends none, DynamoDB Local does."""
    parts: list[bytes] = []
    while True:
        while (end := data.find(b"\r\n")) < 0:
            data += _receive(sock, until)
        try:
            size = int(data[:end].partition(b";")[0], 16)
        except ValueError:
            raise OSError("the answer's chunks are broken") from None
        data = data[end + 2 :]
        while len(data) < size + 2:
            data += _receive(sock, until)
        if data[size : size + 2] != b"\r\n" or (not size and len(data) > 2):
            raise OSError("the answer's chunks are broken")
        if not size:
            return b"".join(parts)
        parts.append(data[:size])
        data = data[size + 2 :]


def _receive(sock: socket.socket, until: float) -> bytes:
    sock.settimeout(max(0.001, until - time.monotonic()))
    data = sock.recv(_CHUNK_BYTES)
    if not data:
        raise ConnectionError("the answer was cut off")
    return data


def _proxy_of(host: str) -> SplitResult | None:
    """Return the proxy that the environment names for a host: ``HTTPS_PROXY``, ``NO_PROXY``."""
    proxy = getproxies().get("https", "")
    if not proxy or proxy_bypass(host):
        return None
    return urlsplit(proxy if "//" in proxy else f"http://{proxy}", scheme="http")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
