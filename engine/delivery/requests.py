"""Requests to AWS on the invoker's own loop: sockets that stay open, one deadline each, and no thread for what is under
way.

What may block goes to a helper thread, and is rare: finding or renewing credentials, and connecting, with name
resolution, proxy, tunnel and handshake. Everything else takes a few microseconds: sign, send, read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine import __version__
from engine.aws.access import Access
from engine.aws.http.answer import Answer
from engine.aws.http.connection import Broken, Connection
from engine.aws.http.connector import Connector, can_reach
from engine.aws.signature import Signer, Stamp
from engine.clock import monotonic_ms
from engine.delivery.sockets import Sockets

USER_AGENT = f"ingest-engine/{__version__}"


class TooLate(Exception):
    """Nobody answered in time."""


class OnlyBotocore(Exception):
    """Only botocore supports this: a proxy that is itself reached over TLS. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A request without a complete answer.

    ``error`` is a `TooLate` or `Broken` if it may have arrived; anything else kept it from being sent. ``half`` is the
    part of an answer that arrived, if it states its length.
    """

    error: Exception
    half: Answer | None = None


Over = Callable[[Answer | NoAnswer], None]
"""Receives a request's outcome; called once, in the loop."""

Aside = Callable[[Callable[[], Callable[[], None]]], None]
"""Runs work in a helper thread; what it returns is called in the loop afterwards."""


class Way:
    """How one path of a service is reached: connector, signer and credentials. ``headers`` are signed."""

    def __init__(
        self, access: Access, service: str, path: str, headers: Mapping[str, str], connect_timeout_s: float
    ) -> None:
        self.credentials = access.credentials
        self.is_passable = can_reach(access.endpoint, access.proxies)
        self.connector = Connector(access.endpoint, access.verify, access.proxies, connect_timeout_s)
        self.signer = Signer(service, access.region, self.connector.host, path)
        self._of_one = Signer(service, access.region, self.connector.host, path)
        self._signed = {name.lower(): value for name, value in headers.items()}
        sent = {"Host": self.connector.host, "User-Agent": USER_AGENT, **headers, **self.connector.headers()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._head = f"POST {self.connector.target_of(path)} HTTP/1.1\r\n{lines}"
        self._frozen: Any = None
        self._is_due: Callable[[], bool] | None = None
        """Tells whether credentials are to be renewed, if they ever are."""
        self._stamp: Stamp | None = None
        self._start = b""
        """The common beginning of the requests of one second, up to the signature."""

    def needs_renewal(self) -> bool:
        """Tell whether asking for the credentials would block."""
        return self._frozen is None or (self._is_due is not None and self._is_due())

    def renew(self) -> None:
        """Get credentials, renewed if that is due; blocks. Raises botocore's errors."""
        self._is_due = getattr(self.credentials, "refresh_needed", None)
        self._frozen = self.credentials.get_frozen_credentials()

    def request(self, body: bytes, headers: Mapping[str, str] = {}) -> bytes:
        """Return a signed request, with further headers of its own."""
        if headers:
            return self._request_with(headers, body)
        stamp = self.signer.at(self._signed, self._frozen, time.time())
        if stamp is not self._stamp:
            lines = "".join([f"{name}: {value}\r\n" for name, value in stamp.headers.items()])
            self._stamp, self._start = stamp, f"{self._head}{lines}Authorization: {stamp.authorization}".encode()
        size = b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        return b"".join((self._start, stamp.signature(body), size, body))

    def _request_with(self, headers: Mapping[str, str], body: bytes) -> bytes:
        signed = self._signed | {name.lower(): value for name, value in headers.items()}
        # With its own signer: what all others have in common stays cached.
        added = self._of_one.sign(signed, body, self._frozen, time.time())
        lines = "".join([f"{name}: {value}\r\n" for name, value in (*headers.items(), *added.items())])
        return f"{self._head}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(eq=False, slots=True)
class _Request:
    """One request under way; past ``until_ms`` (monotonic) it is no longer waited for."""

    body: Callable[[], bytes]
    over: Over
    headers: Mapping[str, str]
    until_ms: int = 0
    connection: Connection | None = None


class Requests:
    """All requests to one path; the caller limits how many there are at once. ``make_way`` may block."""

    def __init__(
        self,
        make_way: Callable[[], Way],
        sockets: Sockets,
        aside: Aside,
        timeout_ms: int,
        answer_bytes_max: int,
    ) -> None:
        self._make_way = make_way
        self._timeout_ms = timeout_ms
        self._answer_bytes_max = answer_bytes_max
        self._sockets = sockets
        self._aside = aside
        self._way: Way | None = None
        self.idle: list[Connection] = []
        self.under_way: dict[_Request, None] = {}
        """In the order of their deadlines, which is that of their starts."""
        self._is_closed = False

    def start(self, body: Callable[[], bytes], over: Over, headers: Mapping[str, str] = {}) -> None:
        """Send a request, with these headers too; ``over`` is called once, in the loop, with its outcome.

        Its body is requested in the loop, once there is a connection.
        """
        way = self._way
        if way is None or way.needs_renewal():
            connection = None
        else:
            connection = self._take_idle()
        request = _Request(body, over, headers)
        if connection is None:
            if self.idle:
                # Fresh credentials bring a new connection, which replaces the oldest: otherwise there would be one more
                # with each renewal.
                self.idle.pop(0).close()
            self._aside(lambda: self._prepare(request))
        else:
            self._begin(request, connection)

    def next_expiry_ms(self) -> int | None:
        """Return when the oldest request is given up, None if none is under way."""
        return next(iter(self.under_way)).until_ms if self.under_way else None

    def expire(self, moment_ms: int) -> None:
        """Give up what has taken too long."""
        while self.under_way and (request := next(iter(self.under_way))).until_ms <= moment_ms:
            self._end(request, NoAnswer(TooLate()))

    def close(self) -> None:
        """Close idle connections, and the others as their requests end."""
        self._is_closed = True
        while self.idle:
            self.idle.pop().close()

    # In a helper thread

    def _prepare(self, request: _Request) -> Callable[[], None]:
        """Connect, with fresh credentials; return what the loop has to do then."""
        try:
            way = self._way or self._make_way()
            way.renew()
            if not way.is_passable:
                raise OnlyBotocore
            connection = Connection(way.connector.connect())
        except Exception as error:
            failed = NoAnswer(error)
            return lambda: request.over(failed)

        def go_on() -> None:
            self._way = way
            self._begin(request, connection)

        return go_on

    # In the loop

    def _take_idle(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None

    def _begin(self, request: _Request, connection: Connection) -> None:
        assert self._way is not None
        request.connection = connection
        request.until_ms = monotonic_ms() + self._timeout_ms
        self.under_way[request] = None
        self._sockets.expect(self, request.until_ms)
        try:
            data = self._way.request(request.body(), request.headers)
        except Exception as error:
            # Unforeseen; it must not end the loop, nor keep keys in flight forever.
            self._end(request, NoAnswer(error))
            return
        try:
            connection.begin(data, self._answer_bytes_max + 1)
        except Broken as error:
            self._end(request, NoAnswer(error))
            return
        self._sockets.watch(connection.fileno(), connection.wants, lambda: self._advance(request, connection))

    def _advance(self, request: _Request, connection: Connection) -> None:
        wanted = connection.wants
        try:
            answer = connection.advance()
        except Broken as error:
            self._end(request, NoAnswer(error, connection.half_answer()))
            return
        if answer is not None:
            self._end(request, answer, keeps_open=answer.keeps_open and not answer.is_too_long)
        elif connection.wants != wanted:
            self._sockets.change(connection.fileno(), connection.wants)

    def _end(self, request: _Request, what: Answer | NoAnswer, *, keeps_open: bool = False) -> None:
        connection, request.connection = request.connection, None
        del self.under_way[request]
        if not self.under_way:
            self._sockets.expect_no_more(self)
        if connection is not None:
            self._sockets.forget(connection.fileno())
            if keeps_open and not self._is_closed:
                self.idle.append(connection)
            else:
                connection.close()
        request.over(what)
