"""Invocations on the invoker's own loop: the outcome of each request to Lambda."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from engine.aws.access import SERVICE, access_to
from engine.aws.http.answer import Answer
from engine.aws.http.connection import Broken
from engine.aws.http.connector import NotConnected, Untrusted
from engine.aws.wire import EXPECTED, TLS_HINT, way_hint
from engine.delivery.lanes.work import Batch
from engine.delivery.requests import Aside, NoAnswer, OnlyBotocore, Requests, TooLate, Way
from engine.delivery.sockets import Sockets
from engine.delivery.targets.answers import with_hint
from engine.delivery.targets.base import Ended, invoked
from engine.delivery.targets.lambda_ import ANSWER_BYTES_MAX, CONTENT_TYPE, WHERE, LambdaTarget, context_headers
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger

log = get_logger(__name__)

_WAY_HINT = way_hint(WHERE)


class Flights:
    """The invocations of one function by one lane; the caller keeps them to ``connections_max`` at once."""

    def __init__(self, target: LambdaTarget, sockets: Sockets, aside: Aside, ended: Ended) -> None:
        self._target = target
        self._aside = aside
        self._ended = ended
        self._timeout_ms = target.delivery.invoke_timeout_ms
        self.requests = Requests(self._way, sockets, aside, self._timeout_ms, ANSWER_BYTES_MAX)

    def _way(self) -> Way:
        target = self._target
        path = f"/2015-03-31/functions/{quote(target.function, safe='')}/invocations"
        access = access_to(target.function, target.aws)
        timeout_s = target.delivery.connect_timeout_ms / 1_000
        return Way(access, SERVICE, path, {"Content-Type": CONTENT_TYPE}, timeout_s)

    def start(self, batch: Batch) -> None:
        """Begin an invocation; ``ended`` is called once, in the loop, with its outcome."""
        headers = context_headers(batch.traceparent) if batch.traceparent else {}
        self.requests.start(lambda: batch.payload, lambda what: self._over(batch, what), headers)

    def close(self) -> None:
        """Close idle connections, and the others as their invocations end."""
        self.requests.close()

    def _over(self, batch: Batch, what: Answer | NoAnswer) -> None:
        if isinstance(what, NoAnswer) and isinstance(what.error, OnlyBotocore):
            self._aside(lambda: self._by_botocore(batch))
        else:
            self._ended(batch, self._meaning_of(what) if isinstance(what, Answer) else self._failure_of(what))

    def _by_botocore(self, batch: Batch) -> Callable[[], None]:
        outcome = invoked(lambda: self._target.invoke(batch.payload, batch.traceparent))
        return lambda: self._ended(batch, outcome)

    def _meaning_of(self, answer: Answer) -> Outcome:
        try:
            return self._target.outcome_of(answer.status, answer.headers, answer.body)
        except Exception as error:
            # An unforeseen answer must not end the loop, nor keep its keys in flight forever.
            log.exception("answer_not_understood", function=self._target.function)
            return Outcome(Failure.BAD_ANSWER, reason=f"{type(error).__name__}: {error}"[:500], is_lost=True)

    def _failure_of(self, what: NoAnswer) -> Outcome:
        error = what.error
        if isinstance(error, TooLate):
            reason = f"no answer within delivery.invoke_timeout_ms = {self._timeout_ms}"
            return Outcome(Failure.TIMEOUT, reason=reason, is_lost=True)
        if isinstance(error, Broken):
            if what.half is not None:
                return self._meaning_of(what.half)
            return Outcome(Failure.CONNECTION, reason=with_hint(str(error), _WAY_HINT), is_lost=True)
        if isinstance(error, NotConnected):
            hint = TLS_HINT if isinstance(error, Untrusted) else _WAY_HINT
            return Outcome(Failure.CONNECTION, reason=with_hint(str(error), hint))
        if isinstance(error, EXPECTED):
            return self._target.not_sent(error)
        log.error("not_connected", function=self._target.function, exc_info=error)
        return Outcome(Failure.SERVICE, reason=f"{type(error).__name__}: {error}"[:500])
