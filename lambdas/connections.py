"""HTTP connections to one endpoint that stay open: what an AWS client needs of HTTP, and no more.

`http.client` connects, also through a proxy's tunnel; answers are read here, in a quarter of its time, for they have
one shape: a head and as many bytes as it says. A call takes a third of the CPU of urllib3 and botocore's session.
"""

from __future__ import annotations

import base64
import http.client
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers (their names in small letters) and body."""

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
            connection = self._connection()
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise NotConnected(f"no connection to {self.host}: {error}") from error
        sock: socket.socket = connection.sock
        return sock

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.hostname or "", self._endpoint.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=self._connect_timeout_s)
        proxy = _proxy_of(host)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=self._connect_timeout_s, context=self._tls)
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port, timeout=self._connect_timeout_s, context=self._tls
        )
        connection.set_tunnel(host, port or 443, _authorization(proxy))
        return connection


def _read_answer(sock: socket.socket, until: float) -> Answer:
    """Return an answer that is whole; raise OSError where it is not, or not in time (monotonic s)."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise OSError("the answer's head has no end")
        data += _receive(sock, until)
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    protocol, _, status = first[:12].partition(" ")
    size = headers.get("content-length", "")
    if protocol not in {"HTTP/1.1", "HTTP/1.0"} or not status.isdigit():
        raise OSError(f"this is no HTTP: {first[:80]!r}")
    if protocol == "HTTP/1.0":
        headers["connection"] = "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return int(status), headers, _read_chunks(sock, data[end + 4 :], until)
    if not size.isdigit():
        # Where the end is the connection's, nobody can tell a whole answer from half of one.
        raise OSError("the answer does not say how long it is")
    parts = [data[end + 4 :]]
    missing = int(size) - len(parts[0])
    while missing > 0:
        parts.append(_receive(sock, until))
        missing -= len(parts[-1])
    if missing:
        raise OSError("the answer is longer than it says")
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
        raise ConnectionError("the answer broke off")
    return data


def _proxy_of(host: str) -> SplitResult | None:
    """Return the proxy that the environment names for a host: ``HTTPS_PROXY``, ``NO_PROXY``."""
    proxy = getproxies().get("https", "")
    if not proxy or proxy_bypass(host):
        return None
    return urlsplit(proxy if "//" in proxy else f"//{proxy}")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
