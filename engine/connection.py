"""The hot-path connection: a raw socket, hiredis for the protocol, nothing in between.

`redis-py` reads a key for 11.6 µs of CPU, this for about 1: no locks, no retries, no pools. It is for the two
loops that decide the engine's speed; everything else may use a full client.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from engine.config import RedisSettings
from engine.errors import RedisError, RedisRefused, RedisUnreachable

NOTHING: Any = False
"""What `RespConnection.reply` returns when no whole reply is there; no RESP reply parses to it."""

READ_BYTES = 1 << 20
_SEND_CHUNK_BYTES = 1 << 16


def pack(args: tuple[bytes | str | int, ...]) -> bytes:
    """Return one command in the server's protocol."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, from its URL; holds no secret."""

    host: str
    port: int
    database: int
    tls: bool
    unix_path: str = ""

    def __str__(self) -> str:
        return self.unix_path or f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Return the address in a ``redis://``, ``rediss://`` or ``unix://`` URL; raise ValueError."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "unix":
        database = int(query.get("db", ["0"])[0])
        return Address("", 0, database, tls=False, unix_path=unquote(parts.path))
    if parts.scheme not in {"redis", "rediss"}:
        raise ValueError("the scheme must be redis://, rediss:// or unix://")
    path = parts.path.strip("/")
    database = int(path or query.get("db", ["0"])[0])
    if database < 0:
        raise ValueError("a database is a number from 0")
    return Address(parts.hostname or "127.0.0.1", parts.port or 6379, database, parts.scheme == "rediss")


class RespConnection:
    """One connection. Not thread-safe; every failure of the wire raises `RedisUnreachable`."""

    def __init__(self, sock: socket.socket, address: Address, encoding: str | None) -> None:
        self._sock = sock
        self.address = address
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._timeout = sock.gettimeout()
        self._reader = (
            hiredis.Reader()
            if encoding is None
            else hiredis.Reader(encoding=encoding, errors="surrogateescape")
        )
        self.reply = self._reader.gets
        """Return the next whole reply, or `NOTHING`; error replies are values (`hiredis.ReplyError`)."""

    @classmethod
    def open(
        cls,
        redis: RedisSettings,
        *,
        name: str,
        protocol: int = 3,
        encoding: str | None = None,
        database: int | None = None,
    ) -> RespConnection:
        """Connect, authenticate, select the database and give the connection its name.

        ``encoding`` "utf-8" decodes strings losslessly (what is not UTF-8 becomes surrogates), None
        leaves bytes. Raises `RedisUnreachable` or `RedisRefused`; no secret is in their text.
        """
        address = parse_url(redis.url)
        connection = cls(_connect(address, redis), address, encoding)
        try:
            connection._greet(redis, name, protocol, address.database if database is None else database)
        except BaseException:
            connection.close()
            raise
        return connection

    def _greet(self, redis: RedisSettings, name: str, protocol: int, database: int) -> None:
        if redis.password:
            credentials = [redis.username, redis.password] if redis.username else [redis.password]
            self._must(("AUTH", *credentials), "authenticate")
        if protocol != 2:
            self._must(("HELLO", protocol), f"speak RESP{protocol} (Redis 6 or later, Valkey)")
        if database:
            self._must(("SELECT", database), f"select database {database}")
        self.call("CLIENT", "SETNAME", name)
        self.call("CLIENT", "NO-TOUCH", "ON")

    def _must(self, command: tuple[str | int, ...], what: str) -> None:
        reply = self.call(*command)
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(self.address, what, str(reply))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._sock.fileno()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self) -> None:
        """Wait for bytes, at most the read timeout, and hand them to the parser."""
        try:
            data = self._sock.recv(READ_BYTES)
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        self._reader.feed(data)

    def receive_available(self) -> bool:
        """Hand what is already here to the parser; return False when nothing was."""
        if self._is_tls:
            return self._receive_available_tls()
        try:
            data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        self._reader.feed(data)
        return True

    def _receive_available_tls(self) -> bool:
        self._sock.settimeout(0)
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._sock.settimeout(self._timeout)
        if not data:
            raise self._lost(None)
        self._reader.feed(data)
        return True

    def call(self, *args: bytes | str | int) -> Any:
        """Send one command and return its reply; an error reply is returned, not raised."""
        self.send(pack(args))
        return self._next()

    def _next(self) -> Any:
        while (reply := self.reply()) is NOTHING:
            self.receive()
        return reply

    def pipeline(self, commands: bytes, count: int) -> list[Any]:
        """Send these packed commands and return their ``count`` replies.

        Sending and receiving interleave: a server that waits for us to read its replies stops reading
        our commands, and two that wait for each other wait for ever.
        """
        replies: list[Any] = []
        reply_of = self.reply
        if len(commands) <= _SEND_CHUNK_BYTES:
            self.send(commands)
        else:
            self._send_interleaved(commands)
        append = replies.append
        while len(replies) < count:
            reply = reply_of()
            if reply is NOTHING:
                self.receive()
                continue
            append(reply)
        return replies

    def _send_interleaved(self, commands: bytes) -> None:
        view = memoryview(commands)
        for start in range(0, len(view), _SEND_CHUNK_BYTES):
            chunk = view[start : start + _SEND_CHUNK_BYTES]
            while chunk:
                timeout_ms = None if self._timeout is None else int(self._timeout * 1_000)
                poller = select.poll()
                poller.register(self._sock, select.POLLIN | select.POLLOUT)
                ready = poller.poll(timeout_ms)
                if not ready:
                    raise self._lost(TimeoutError("timed out"))
                if ready[0][1] & ~select.POLLOUT:
                    self.receive_available()
                if ready[0][1] & select.POLLOUT:
                    chunk = chunk[self._send_some(chunk) :]

    def _send_some(self, chunk: memoryview) -> int:
        self._sock.settimeout(0)
        try:
            return self._sock.send(chunk)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._sock.settimeout(self._timeout)

    def _lost(self, error: OSError | None) -> RedisUnreachable:
        if isinstance(error, TimeoutError):
            return RedisUnreachable(
                f"{self.address} did not answer in {self._timeout} s", hint="see redis.read_timeout_ms"
            )
        why = f": {error.strerror or error}" if error else " by the server"
        return RedisUnreachable(f"the connection to {self.address} was closed{why}")

    def close(self) -> None:
        """Close the connection; never fails."""
        with contextlib.suppress(OSError):
            self._sock.close()


def refusal(address: Address, what: str, reply: str) -> RedisError:
    """Return the error for a server's refusal, with the remedy that fits."""
    word = reply.split(" ", 1)[0]
    hints = {
        "WRONGPASS": "check ENGINE_REDIS_USERNAME and ENGINE_REDIS_PASSWORD, or redis.password_file",
        "NOAUTH": "the server wants a password: set ENGINE_REDIS_PASSWORD or redis.password_file",
        "NOPERM": "grant the right to this user: ACL SETUSER <user> +<command>",
        "NOPROTO": "the server is too old for RESP3: Redis 6 or later, or Valkey, is needed",
    }
    if word in {"LOADING", "MASTERDOWN", "BUSY"}:
        return RedisUnreachable(f"{address} is not ready: {reply}", hint="it is tried again")
    if "without any password configured" in reply or "no password is set" in reply:
        hint = "the server has no password: remove the one that is configured"
    else:
        hint = hints.get(word, "see the server's log")
    return RedisRefused(f"{address} refused to {what}: {reply}", hint=hint)


def _connect(address: Address, redis: RedisSettings) -> socket.socket:
    timeout_s = redis.connect_timeout_ms / 1_000
    try:
        if address.unix_path:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout_s)
            sock.connect(address.unix_path)
        else:
            sock = socket.create_connection((address.host, address.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError as error:
        raise RedisUnreachable(
            f"cannot connect to {address}: {error.strerror or error}",
            hint="is the server running, and redis.url right?",
        ) from error
    try:
        if address.tls:
            sock = _tls_context(redis).wrap_socket(sock, server_hostname=address.host)
    except (OSError, ValueError) as error:
        sock.close()
        raise RedisUnreachable(
            f"no TLS with {address}: {error}",
            hint="does this port speak TLS (else redis://), and is redis.tls_ca_file the right authority?",
        ) from error
    sock.settimeout(redis.read_timeout_ms / 1_000)
    return sock


def _tls_context(redis: RedisSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=redis.tls_ca_file or None)
    if redis.tls_cert_file:
        context.load_cert_chain(redis.tls_cert_file, redis.tls_key_file or None)
    if not redis.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
