"""Sockets to a server: TCP, TLS, or a path. Certificates are read at each connection, so renewed ones apply at once."""

from __future__ import annotations

import socket
import ssl

from engine.config import RedisSettings
from engine.errors import RedisRefused
from engine.redis.address import Address
from engine.redis.errors import no_connection, tls_failure


def dial(address: Address, redis: RedisSettings) -> socket.socket:
    """Return a connected socket with the read timeout set; raise `RedisError`."""
    timeout_s = redis.connect_timeout_ms / 1_000
    context = _tls_context(redis) if address.tls else None
    try:
        sock = _open_socket(address, timeout_s)
    except (OSError, UnicodeError) as error:
        raise no_connection(address, error, timeout_s) from error
    if context is not None:
        plain = sock
        try:
            sock = context.wrap_socket(plain, server_hostname=redis.tls_server_name or address.host)
        except (OSError, ValueError) as error:
            plain.close()
            raise tls_failure(address, error) from error
    sock.settimeout(redis.read_timeout_ms / 1_000)
    return sock


def _open_socket(address: Address, timeout_s: float) -> socket.socket:
    if not address.unix_path:
        sock = socket.create_connection((address.host, address.port), timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address.unix_path)
    except BaseException:
        sock.close()
        raise
    return sock


def _tls_context(redis: RedisSettings) -> ssl.SSLContext:
    setting, path = "redis.tls_ca_file", redis.tls_ca_file
    try:
        context = ssl.create_default_context(cafile=path or None)
        if redis.tls_cert_file:
            setting, path = "redis.tls_cert_file", redis.tls_cert_file
            context.load_cert_chain(path, redis.tls_key_file or None)
    except OSError as error:
        raise RedisRefused(
            f"{setting}: {path} can't be used: {error.strerror or error}",
            hint="a PEM file that this user may read; redis.tls_key_file is the certificate's own key",
        ) from error
    if not redis.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
