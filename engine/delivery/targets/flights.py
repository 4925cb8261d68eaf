"""Invocations on the invoker's own loop: sockets that stay open, one deadline a call, no thread for what is on its way.

What may block goes to a helper thread, and is rare: to look for credentials or renew them, and to connect, with name,
proxy, tunnel and handshake. All else is a few microseconds: sign, send, read, and tell what the answer means.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from engine.aws.access import SERVICE, access_to
from engine.aws.http.answer import Answer
from engine.aws.http.connection import Broken, Connection
from engine.aws.http.connector import Connector, NotConnected, Untrusted, can_reach
from engine.aws.signature import Signer
from engine.aws.wire import EXPECTED
from engine.clock import monotonic_ms
from engine.config import AwsSettings
from engine.delivery.lanes.work import Batch
from engine.delivery.sockets import Sockets
from engine.delivery.targets.answers import with_hint
from engine.delivery.targets.lambda_ import ANSWER_BYTES_MAX, HEADERS, WHERE, LambdaTarget
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger

log = get_logger(__name__)

_WAY_HINT = f"check {WHERE}, and the way there: firewall, proxy, VPC endpoint"
_TLS_HINT = "if a proxy or endpoint has a certificate of its own, name its authority's file in AWS_CA_BUNDLE"

Ended = Callable[[Batch, Outcome], None]
"""Takes in what became of a batch; called in the loop."""

Aside = Callable[[Callable[[], Callable[[], None]]], None]
"""Has work done in a helper thread; what it returns is called in the loop afterwards."""


class Way:
    """How a function is reached: connector, signer and credentials. To make one blocks."""

    def __init__(self, function: str, aws: AwsSettings, connect_timeout_s: float) -> None:
        access = access_to(function, aws)
        self.credentials = access.credentials
        self.is_passable = can_reach(access.endpoint, access.proxies)
        self.connector = Connector(access.endpoint, access.verify, access.proxies, connect_timeout_s)
        path = f"/2015-03-31/functions/{quote(function, safe='')}/invocations"
        self.signer = Signer(SERVICE, access.region, self.connector.host, path)
        unsigned = {
            "Host": self.connector.host,
            "User-Agent": HEADERS["User-Agent"],
            "Content-Type": HEADERS["Content-Type"],
            **self.connector.headers(),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in unsigned.items())
        self._head = f"POST {self.connector.target_of(path)} HTTP/1.1\r\n{lines}"
        self._frozen: Any = None

    def needs_renewal(self) -> bool:
        """Tell whether asking for the credentials would block."""
        refresh_needed = getattr(self.credentials, "refresh_needed", None)
        return self._frozen is None or (refresh_needed is not None and refresh_needed())

    def renew(self) -> None:
        """Have credentials at hand, renewed if they are due; blocks. Raises botocore's errors."""
        self._frozen = self.credentials.get_frozen_credentials()

    def request(self, payload: bytes) -> bytes:
        """Return a signed request."""
        signed = {"content-type": HEADERS["Content-Type"]}
        added = self.signer.sign(signed, payload, self._frozen, time.time())
        lines = "".join([f"{name}: {value}\r\n" for name, value in added.items()])
        return f"{self._head}Content-Length: {len(payload)}\r\n{lines}\r\n".encode() + payload


@dataclass(eq=False, slots=True)
class Flight:
    """One invocation under way; past ``until_ms`` (monotonic) nobody waits for it any more."""

    batch: Batch
    until_ms: int
    connection: Connection | None = None


class Flights:
    """The invocations of one function by one lane; at most ``connections_max`` at once are the caller's to see to."""

    def __init__(
        self,
        target: LambdaTarget,
        sockets: Sockets,
        aside: Aside,
        ended: Ended,
    ) -> None:
        self._target = target
        self._function = target.function
        self._aws = target.aws
        self._connect_timeout_s = target.delivery.connect_timeout_ms / 1_000
        self._timeout_ms = target.delivery.invoke_timeout_ms
        self._sockets = sockets
        self._aside = aside
        self._ended = ended
        self._way: Way | None = None
        self._idle: list[Connection] = []
        self._flights: dict[Flight, None] = {}
        """In the order of their deadlines, which is that of their starts."""
        self._is_closed = False

    def start(self, batch: Batch) -> None:
        """Begin an invocation; ``ended`` is called once, in the loop, with what became of it."""
        way = self._way
        if way is None or way.needs_renewal():
            connection = None
        else:
            connection = self._take_idle()
        flight = Flight(batch, 0)
        if connection is None:
            self._aside(lambda: self._prepare(flight))
        else:
            self._begin(flight, connection)

    def next_expiry_ms(self) -> int | None:
        """Return when the oldest invocation is given up, None where none is on its way."""
        return next(iter(self._flights)).until_ms if self._flights else None

    def expire(self, moment_ms: int) -> None:
        """Give up what has taken too long."""
        while self._flights and (flight := next(iter(self._flights))).until_ms <= moment_ms:
            reason = f"no answer within delivery.invoke_timeout_ms = {self._timeout_ms}"
            self._end(flight, Outcome(Failure.TIMEOUT, reason=reason, is_lost=True))

    def close(self) -> None:
        """Close idle connections, and each other one as its invocation ends."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    # In a helper thread

    def _prepare(self, flight: Flight) -> Callable[[], None]:
        """Connect, with fresh credentials; return what the loop is to do then."""
        try:
            way = self._way or Way(self._function, self._aws, self._connect_timeout_s)
            way.renew()
            if not way.is_passable:
                outcome = self._target.invoke(flight.batch.payload)
                return lambda: self._ended(flight.batch, outcome)
            connection = Connection(way.connector.connect())
        except Exception as error:
            failed = self._not_sent(error)
            return lambda: self._ended(flight.batch, failed)

        def go_on() -> None:
            self._way = way
            self._begin(flight, connection)

        return go_on

    def _not_sent(self, error: Exception) -> Outcome:
        if isinstance(error, NotConnected):
            hint = _TLS_HINT if isinstance(error, Untrusted) else _WAY_HINT
            return Outcome(Failure.CONNECTION, reason=with_hint(str(error), hint))
        if not isinstance(error, EXPECTED):
            log.exception("not_connected", function=self._function)
            return Outcome(Failure.SERVICE, reason=f"{type(error).__name__}: {error}"[:500])
        return self._target.not_sent(error)

    # In the loop

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None

    def _begin(self, flight: Flight, connection: Connection) -> None:
        assert self._way is not None
        flight.connection = connection
        flight.until_ms = monotonic_ms() + self._timeout_ms
        self._flights[flight] = None
        self._sockets.expect(self)
        try:
            connection.begin(self._way.request(flight.batch.payload), ANSWER_BYTES_MAX + 1)
        except Broken as error:
            self._end(flight, self._broken(error))
            return
        self._sockets.watch(connection.fileno(), connection.wants, lambda: self._advance(flight, connection))

    def _advance(self, flight: Flight, connection: Connection) -> None:
        wanted = connection.wants
        try:
            answer = connection.advance()
        except Broken as error:
            half = connection.half_answer()
            self._end(flight, self._broken(error) if half is None else self._meaning_of(half))
            return
        if answer is not None:
            keeps_open = answer.keeps_open and not answer.is_too_long
            self._end(flight, self._meaning_of(answer), keeps_open=keeps_open)
        elif connection.wants != wanted:
            self._sockets.change(connection.fileno(), connection.wants)

    def _meaning_of(self, answer: Answer) -> Outcome:
        try:
            return self._target.outcome_of(answer.status, answer.headers, answer.body)
        except Exception as error:
            # An answer that nobody foresaw must not end the loop, nor keep its keys in flight for ever.
            log.exception("answer_not_understood", function=self._function)
            return Outcome(Failure.BAD_ANSWER, reason=f"{type(error).__name__}: {error}"[:500], is_lost=True)

    def _end(self, flight: Flight, outcome: Outcome, *, keeps_open: bool = False) -> None:
        connection, flight.connection = flight.connection, None
        del self._flights[flight]
        if not self._flights:
            self._sockets.expect_no_more(self)
        if connection is not None:
            self._sockets.forget(connection.fileno())
            if keeps_open and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.close()
        self._ended(flight.batch, outcome)

    def _broken(self, error: Broken) -> Outcome:
        return Outcome(Failure.CONNECTION, reason=with_hint(str(error), _WAY_HINT), is_lost=True)
