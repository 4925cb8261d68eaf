"""Calls to streams and queues on the invoker's own loop, in AWS's JSON protocols: a batch's calls, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from engine.aws.http.answer import Answer
from engine.aws.http.connection import Broken
from engine.aws.http.connector import NotConnected, Untrusted
from engine.aws.template import template_of
from engine.aws.wire import EXPECTED, TLS_HINT, AnswerBrokeOff, way_hint
from engine.clock import monotonic_ms
from engine.delivery.lanes.work import Batch
from engine.delivery.requests import Aside, NoAnswer, OnlyBotocore, Requests, TooLate, Way
from engine.delivery.sockets import Sockets
from engine.delivery.targets.answers import short
from engine.delivery.targets.base import Ended, invoked
from engine.delivery.targets.batches import WHERE, BatchTarget, Meaning, Part, Sending
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger

log = get_logger(__name__)

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""A call has an entry per record, of some hundred bytes."""

_TYPICAL = Part("0", "key", "", b"{}")
_WAY_HINT = way_hint(WHERE)
_encode = msgspec.json.Encoder().encode
"""Bytes become base64, as the JSON protocols have them."""


class BatchFlights:
    """The batches of one stream or queue by one lane."""

    def __init__(self, target: BatchTarget, sockets: Sockets, aside: Aside, ended: Ended) -> None:
        self._target = target
        self._aside = aside
        self._ended = ended
        self._endpoint = ""
        self.requests = Requests(self._way, sockets, aside, target.timeout_ms, ANSWER_BYTES_MAX)

    def _way(self) -> Way:
        target = self._target
        place = target.place
        template = template_of(
            place.service, place.region, target.method, lambda endpoint: target.parameters([_TYPICAL], endpoint)
        )
        self._endpoint = template.endpoint
        timeout_s = target.delivery.connect_timeout_ms / 1_000
        return Way(template.access, template.service, template.path, template.headers, timeout_s)

    def start(self, batch: Batch) -> None:
        """Begin with a batch; ``ended`` is called once, in the loop, with its outcome."""
        try:
            sending = self._target.sending(batch.payload)
        except Exception as error:
            # What can't be split into records must still be returned.
            log.exception("payload_not_understood", place=self._target.place.arn)
            self._ended(batch, Outcome(Failure.SERVICE, reason=_of_a_bug(error)))
            return
        self._next(batch, sending)

    def close(self) -> None:
        """Close idle connections, and the others as their calls end."""
        self.requests.close()

    def _next(self, batch: Batch, sending: Sending) -> None:
        call = sending.next_call(monotonic_ms())
        if call is None:
            self._ended(batch, sending.outcome())
            return

        def over(what: Answer | NoAnswer) -> None:
            if isinstance(what, NoAnswer) and isinstance(what.error, OnlyBotocore):
                self._aside(lambda: self._by_botocore(batch))
                return
            try:
                self._heard(sending, call, what)
            except Exception as error:
                # An unforeseen answer must not end the loop, nor keep its keys in flight forever.
                log.exception("answer_not_understood", place=self._target.place.arn)
                sending.failed(Meaning(Failure.SERVICE, _of_a_bug(error), "", True))
            self._next(batch, sending)

        self.requests.start(lambda: _encode(self._target.parameters(call, self._endpoint)), over)

    def _by_botocore(self, batch: Batch) -> Callable[[], None]:
        outcome = invoked(lambda: self._target.invoke(batch.payload))
        return lambda: self._ended(batch, outcome)

    def _heard(self, sending: Sending, call: Sequence[Part], what: Answer | NoAnswer) -> None:
        if isinstance(what, NoAnswer):
            sending.failed(self._failure_of(what.error))
        elif what.status >= 300 or what.is_too_long:
            sending.failed(self._target.refused(*error_of(what), what.status))
        else:
            try:
                sending.answered(self._target.refusals_of(call, _object(what.body)))
            except AnswerBrokeOff as error:
                sending.failed(self._target.meaning_of(error))

    def _failure_of(self, error: Exception) -> Meaning:
        if isinstance(error, TooLate):
            limit_ms = self._target.timeout_ms
            return Meaning(Failure.CONNECTION, f"no answer within {limit_ms} ms", _WAY_HINT, True)
        if isinstance(error, NotConnected | Broken):
            hint = TLS_HINT if isinstance(error, Untrusted) else _WAY_HINT
            return Meaning(Failure.CONNECTION, short(str(error)), hint, isinstance(error, Broken))
        if isinstance(error, EXPECTED):
            return self._target.meaning_of(error)
        log.error("not_sent", place=self._target.place.arn, exc_info=error)
        return Meaning(Failure.SERVICE, _of_a_bug(error), "it is retried", False)


def error_of(answer: Answer) -> tuple[str, str]:
    """Return code and message of an error of the service, as botocore reads them."""
    told = _parsed(answer.body)
    told = told if isinstance(told, dict) else {}
    # SQS also gives the codes of its older protocol, by which they are documented.
    code = answer.headers.get("x-amzn-query-error").partition(";")[0] or str(told.get("__type") or "")
    code = code or answer.headers.get("x-amzn-ErrorType") or f"HTTP {answer.status}"
    message = told.get("message") or told.get("Message") or ""
    return code.rpartition("#")[2].partition(":")[0], str(message)


def _object(body: bytes) -> dict[str, Any]:
    told = _parsed(body)
    if not isinstance(told, dict):
        raise AnswerBrokeOff
    return told


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _of_a_bug(error: Exception) -> str:
    return short(f"{type(error).__name__}: {error}")
