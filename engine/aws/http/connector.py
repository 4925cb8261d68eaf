"""How connections are made: through proxies and their tunnels, with TLS. This blocks: it is called in a thread."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from botocore.httpsession import get_cert_path

_KEEPALIVE_IDLE_S = 60
"""NAT gateways and load balancers drop a connection that is silent for 350 s; a function may run for 900 s."""


class NotConnected(Exception):
    """No connection could be made, so nothing was sent."""


class Untrusted(NotConnected):
    """The other side's certificate was not accepted."""


class NoWay(NotConnected):
    """The proxy could not be reached, or refused the tunnel."""


def can_reach(endpoint: str, proxies: Mapping[str, str]) -> bool:
    """Tell whether a `Connector` can do it: not through a proxy that is itself reached over TLS."""
    return not (proxies.get(urlsplit(endpoint).scheme) or "").startswith("https:")


class Connector:
    """Makes connections to one endpoint. ``verify`` and ``proxies`` are as botocore has them."""

    def __init__(self, endpoint: str, verify: str | bool, proxies: Mapping[str, str], connect_timeout_s: float) -> None:
        self._endpoint = urlsplit(endpoint)
        self._timeout_s = connect_timeout_s
        proxy = proxies.get(self._endpoint.scheme)
        self._proxy = urlsplit(proxy if "//" in proxy else f"http://{proxy}") if proxy else None
        self._tls: ssl.SSLContext | None = None
        if self._endpoint.scheme == "https":
            self._tls = ssl.create_default_context(cafile=get_cert_path(verify) or None)
            self._tls.set_alpn_protocols(["http/1.1"])

    @property
    def host(self) -> str:
        """Return what the Host header says."""
        port, scheme = self._endpoint.port, self._endpoint.scheme
        host = self._endpoint.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return host if port in {None, {"http": 80, "https": 443}.get(scheme)} else f"{host}:{port}"

    def target_of(self, path: str) -> str:
        """Return what a request's first line names: the whole URL if a proxy forwards it unencrypted."""
        return f"http://{self.host}{path}" if self._proxy is not None and self._tls is None else path

    def headers(self) -> dict[str, str]:
        """Return what such a proxy has to be sent with each request."""
        return _authorization(self._proxy) if self._proxy is not None and self._tls is None else {}

    def connect(self) -> socket.socket:
        """Return a connection, its tunnel made and its certificate verified; raise `NotConnected`."""
        connection = self._connection()
        try:
            connection.connect()
        except ssl.SSLError as error:
            connection.close()
            raise Untrusted(f"no TLS with {self.host}: {error}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            where, kind = (self.host, NotConnected) if self._proxy is None else (f"the proxy to {self.host}", NoWay)
            raise kind(f"no connection to {where}: {error}") from error
        sock: socket.socket = connection.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        return sock

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.hostname or "", self._endpoint.port
        proxy, timeout_s = self._proxy, self._timeout_s
        if self._tls is None:
            place = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
            return http.client.HTTPConnection(*place, timeout=timeout_s)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or 80, timeout=timeout_s, context=self._tls
        )
        connection.set_tunnel(host, port or 443, _authorization(proxy))
        return connection


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user, password = unquote(proxy.username), unquote(proxy.password or "")
    return {"Proxy-Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
