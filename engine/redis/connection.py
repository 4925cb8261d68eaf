"""The hot-path connection: a raw socket, hiredis for the protocol, nothing in between.

`redis-py` takes 11.6 µs of CPU to read a key, this about 1: no locks, no retries, no pools. The owner of a connection
decides what a failure means; here it is only named.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import hiredis
from msgspec.structs import replace

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.errors import RedisError, RedisUnreachable
from engine.redis.address import Address, join, mapped, parse_url
from engine.redis.credentials import Credentials, credentials_of, sentinel_credentials_of
from engine.redis.dialing import dial
from engine.redis.errors import lost, nobody_answers, not_redis, refusal, wrong_role
from engine.redis.sentinel import CONNECT_MS_MAX, at, primaries

NOTHING: Any = False
"""What `RespConnection.reply` returns when there is no complete reply; no RESP reply to our commands parses to it."""

UNPARSABLE = (hiredis.ProtocolError, MemoryError, TypeError)
"""What the parser raises: a map whose keys are lists is a TypeError, an array of 4 billion elements a MemoryError."""

READ_BYTES = 1 << 20
PRIMARY, REPLICA = "master", "replica"
"""Roles as a server reports them in its greeting."""
_REPLICAS = frozenset({"slave", b"slave"})
_ROLES = _REPLICAS | {"master", b"master"}
IAM_LIFE_MS = 11 * 3_600_000
"""A connection authenticated by IAM is renewed after this time: AWS ends it after 12 hours."""
ONE_RUNS = "one that runs is enough"
_AGAIN_S = 0.1
_SEND_CHUNK_BYTES = 1 << 16
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def pack(*args: bytes | str | int) -> bytes:
    """Return one command in the server's protocol."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


class RespConnection:
    """One connection. Not thread-safe; every failure of the wire raises `RedisUnreachable`.

    ``reply`` is the parser's own function, because the loops that call it for every event can't pay for another
    call: it raises one of `UNPARSABLE` if the bytes are not Redis's, which `call` and `pipeline` translate.
    """

    def __init__(
        self, sock: socket.socket, address: Address, encoding: str | None, *, read_bytes: int = READ_BYTES
    ) -> None:
        self.address = address
        self.facts: dict[str, str] = {}
        """What the server said about itself in its greeting (``version``, ``mode``, ``role``); empty for old ones."""
        self.epoch = 0
        """The number of the configuration by which Sentinels made it the primary; 0 if none are asked."""
        self.renewal_ms = 0
        """When (monotonic) another connection must replace it, 0 for never: AWS ends those authenticated by IAM."""
        self.is_named = False
        """Whether the server knows the connection by its name: a user may not be allowed to set one."""
        self.is_full = False
        """Whether the last read filled the buffer: more may have arrived than a poll of the socket shows."""
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._timeout_s = sock.gettimeout()
        self._is_greeted = False
        # Reused for every read: a fresh buffer of this size costs 20 µs a read, more than everything else.
        self._buffer = bytearray(read_bytes)
        self._reader = (
            hiredis.Reader() if encoding is None else hiredis.Reader(encoding=encoding, errors="surrogateescape")
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
        read_bytes: int = READ_BYTES,
        readonly: bool = False,
        role: str = "",
    ) -> RespConnection:
        """Connect, authenticate, select the database and give the connection its name.

        If ``redis.url`` names Sentinels, connect to the primary of the service that they name now and that confirms it;
        if it names several hosts, to the first that answers. ``encoding`` "utf-8" decodes strings losslessly (what is
        not UTF-8 becomes surrogates), None leaves bytes. ``readonly`` makes a cluster's replica answer for its
        primary's slots. ``role`` (`PRIMARY` or `REPLICA`) is what the server has to be. Raises `RedisUnreachable` or
        `RedisRefused`; no secret is in their text.
        """

        def opened(address: Address) -> RespConnection:
            connection = cls(dial(address, redis), address, encoding, read_bytes=read_bytes)
            try:
                chosen = address.database if database is None else database
                connection._greet(credentials_of(redis), name, protocol, chosen)
                if redis.iam:
                    connection.renewal_ms = monotonic_ms() + IAM_LIFE_MS
                if readonly:
                    connection._must("let replicas be read", "READONLY")
                if role and connection.facts.get("role", role) != role:
                    raise wrong_role(address, role)
            except BaseException:
                connection.close()
                raise
            return connection

        address = parse_url(redis.url)
        return _at_the_primary(redis, address, opened) if address.service else _at_any_host(address, opened)

    def _greet(self, credentials: Credentials, name: str, protocol: int, database: int) -> None:
        username, password, hint = credentials
        if username or password:
            reply = self.call("AUTH", *filter(None, (username, password)))
            if isinstance(reply, hiredis.ReplyError):
                raise refusal(self.address, "authenticate", str(reply), hint)
        hello = self.call("HELLO", protocol)
        if isinstance(hello, hiredis.ReplyError):
            # Redis before 6 has no HELLO and speaks only RESP2, which is enough for callers that asked for it.
            if protocol != 2 or not str(hello).startswith("ERR unknown command"):
                raise refusal(self.address, f"speak RESP{protocol}", str(hello))
        else:
            self.facts = _facts(hello)
        self._is_greeted = True
        if database:
            self._must(f"select database {database}", "SELECT", database)
        self.is_named = not isinstance(self.call("CLIENT", "SETNAME", name), hiredis.ReplyError)
        if may_be_untouched(self.facts):
            self.call("CLIENT", "NO-TOUCH", "ON")

    def _must(self, what: str, *command: str | int) -> None:
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
            self._fail(error)

    def receive(self) -> None:
        """Wait for bytes, at most the read timeout, and hand them to the parser."""
        try:
            size = self._sock.recv_into(self._buffer)
        except OSError as error:
            self._fail(error)
        self._take(size)

    def receive_available(self) -> bool:
        """Hand what has already arrived, up to ``read_bytes``, to the parser; return False if that is nothing."""
        if self._is_tls:
            return self._receive_available_tls()
        try:
            # Not `recv_into`: a socket with a timeout waits for it, MSG_DONTWAIT or not. Its descriptor never blocks.
            size = os.readv(self._sock.fileno(), (self._buffer,))
        except _WOULD_BLOCK:
            self.is_full = False
            return False
        except OSError as error:
            self._fail(error)
        self._take(size)
        return True

    def _receive_available_tls(self) -> bool:
        """Read record by record until nothing is left: a poll does not show what TLS has already read."""
        view, filled, is_over = memoryview(self._buffer), 0, False
        self._sock.settimeout(0)
        try:
            while filled < len(view) and not is_over:
                size = self._sock.recv_into(view[filled:])
                filled += size
                is_over = not size
        except _WOULD_BLOCK:
            pass
        except OSError as error:
            self._fail(error)
        finally:
            self._sock.settimeout(self._timeout_s)
        self.is_full = False
        if filled or is_over:
            self._take(filled)
        return filled > 0

    def _take(self, size: int) -> None:
        if not size:
            self._fail(None)
        self.is_full = size == len(self._buffer)
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]

    def call(self, *args: bytes | str | int) -> Any:
        """Send one command and return its reply; an error reply is returned, not raised."""
        return self.pipeline(pack(*args), 1)[0]

    def pipeline(self, commands: bytes, count: int) -> list[Any]:
        """Send these packed commands and return their ``count`` replies; error replies are values.

        Sending and receiving interleave: a server that waits for us to read its replies stops reading
        our commands, and two that wait for each other wait forever.
        """
        replies: list[Any] = []
        append, reply_of = replies.append, self.reply
        if len(commands) <= _SEND_CHUNK_BYTES:
            self.send(commands)
        else:
            self._send_interleaved(commands)
        try:
            while len(replies) < count:
                reply = reply_of()
                if reply is NOTHING:
                    self.receive()
                    continue
                append(reply)
        except UNPARSABLE as error:
            raise not_redis(self.address, error) from error
        return replies

    def _send_interleaved(self, commands: bytes) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | select.POLLOUT)
        timeout_ms = None if self._timeout_s is None else int(self._timeout_s * 1_000)
        rest = memoryview(commands)
        while rest:
            ready = poller.poll(timeout_ms)
            if not ready:
                self._fail(TimeoutError("timed out"))
            if ready[0][1] & ~select.POLLOUT:
                self.receive_available()
            if ready[0][1] & select.POLLOUT:
                rest = rest[self.send_available(rest[:_SEND_CHUNK_BYTES]) :]

    def send_available(self, chunk: bytes | memoryview) -> int:
        """Send what the socket accepts at once; return how many bytes that was."""
        if not self._is_tls:
            try:
                # Not `send`: a socket with a timeout waits for it, MSG_DONTWAIT or not. Its descriptor never blocks.
                return os.write(self._sock.fileno(), chunk)
            except _WOULD_BLOCK:
                return 0
            except OSError as error:
                self._fail(error)
        self._sock.settimeout(0)
        try:
            return self._sock.send(chunk)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            self._fail(error)
        finally:
            self._sock.settimeout(self._timeout_s)

    def _fail(self, error: OSError | None) -> NoReturn:
        hint = ""
        if isinstance(error, TimeoutError):
            hint = "see redis.read_timeout_ms"
        elif not self._is_greeted and not self._is_tls:
            hint = "if this port speaks TLS, write rediss:// in redis.url"
        elif not self._is_greeted:
            hint = "if the server requires a client certificate, name it in redis.tls_cert_file"
        raise lost(self.address, error, self._timeout_s, hint) from error

    def peer(self) -> str:
        """Return the ``host:port`` that the name led to; "" for a path."""
        if self.address.unix_path:
            return ""
        host, port = self._sock.getpeername()[:2]
        return join(host, port)

    def detach(self) -> socket.socket:
        """Return the socket, greeted, to a caller that sends and reads by itself; this object is then unusable."""
        return self._sock

    def close(self) -> None:
        """Close the connection; never fails."""
        with contextlib.suppress(OSError):
            self._sock.close()


def may_be_untouched(facts: Mapping[str, str]) -> bool:
    """Tell from a greeting whether a connection may ask that its reads do not count as uses (``CLIENT NO-TOUCH``).

    Redis 6 does not know it, and would log a refusal. A node of a Redis cluster crashes with a segmentation fault (seen
    on 8.2.3) when such a connection asks for a key whose slot is moving.
    """
    is_redis_cluster = facts.get("mode") == "cluster" and facts.get("server", "redis") == "redis"
    return not is_redis_cluster and not facts.get("version", "").startswith("6.")


def is_replica(told: Any) -> bool:
    """Tell from an answer to ``ROLE``, or to ``HELLO``, whether the server is a replica."""
    if isinstance(told, list) and told and told[0] in _ROLES:
        return told[0] in _REPLICAS
    return _facts(told).get("role") == REPLICA


def _facts(hello: Any) -> dict[str, str]:
    """Return the texts of a greeting, which is a map in RESP3 and a flat list in RESP2."""
    if not isinstance(hello, dict | list):
        return {}
    pairs = hello.items() if isinstance(hello, dict) else zip(hello[::2], hello[1::2], strict=False)
    texts = (bytes, str)
    return {_text(name): _text(value) for name, value in pairs if isinstance(name, texts) and isinstance(value, texts)}


def _text(word: bytes | str) -> str:
    return word if isinstance(word, str) else word.decode("utf-8", "replace")


def _at_any_host(address: Address, opened: Callable[[Address], RespConnection]) -> RespConnection:
    """Return the connection to the first of the hosts that answers; raise the only one's own error."""
    if not address.hosts:
        return opened(address)
    problems: list[RedisError] = []
    for host in address.each():
        try:
            return opened(host)
        except RedisError as error:
            problems.append(error)
    raise nobody_answers("no host in redis.url answers", problems, ONE_RUNS)


def _at_the_primary(
    redis: RedisSettings, address: Address, opened: Callable[[Address], RespConnection]
) -> RespConnection:
    """Return the connection to a server that a Sentinel names as the primary and that confirms it; within bounds."""
    until_ms = monotonic_ms() + redis.connect_timeout_ms
    while True:
        problem: RedisUnreachable | None = None
        tried: set[str] = set()
        for place, epoch in primaries(address, partial(ask_sentinel, redis)):
            if place in tried:
                continue
            tried.add(place)
            try:
                connection = opened(at(address, mapped(redis.node_addresses, place)))
            except RedisUnreachable as error:
                problem = error
                continue
            if connection.facts.get("role", PRIMARY) == PRIMARY:
                connection.epoch = epoch
                return connection
            connection.close()
            problem = wrong_role(connection.address, PRIMARY)
        if monotonic_ms() >= until_ms:
            assert problem is not None
            raise problem
        time.sleep(_AGAIN_S)


def ask_sentinel(redis: RedisSettings, sentinel: Address, questions: Sequence[tuple[str, ...]]) -> list[Any]:
    """Return what a Sentinel replies to these commands; error replies are values. Raises `RedisError`."""
    connection = open_sentinel(redis, sentinel)
    try:
        return connection.pipeline(b"".join(pack(*question) for question in questions), len(questions))
    finally:
        connection.close()


def open_sentinel(redis: RedisSettings, sentinel: Address) -> RespConnection:
    """Connect to a Sentinel, with its own credentials, and authenticate; raise `RedisError`."""
    limits = min(redis.connect_timeout_ms, CONNECT_MS_MAX), min(redis.read_timeout_ms, CONNECT_MS_MAX)
    patience = replace(redis, connect_timeout_ms=limits[0], read_timeout_ms=limits[1])
    connection = RespConnection(dial(sentinel, patience), sentinel, None, read_bytes=_SEND_CHUNK_BYTES)
    try:
        connection._greet(sentinel_credentials_of(redis), "engine", 2, 0)
    except BaseException:
        connection.close()
        raise
    return connection
