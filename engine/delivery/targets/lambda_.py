"""AWS Lambda, invoked synchronously: what an answer means, and one blocking call.

An invoker's invocations are on its loop (`engine.delivery.targets.flights`). The blocking call here is for the question
before a start, and for proxies that are themselves reached over TLS: botocore's own session sends it. It skips the part
of boto3's ``client.invoke`` that turns a dictionary into a request and back. No retries here: the engine retries.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from engine.aws.access import SERVICE, access_to, http_session
from engine.aws.service_clock import ServiceClock
from engine.aws.wire import EXPECTED, SILENCE, hint_of, is_of_the_wire, may_be_lost
from engine.clock import monotonic_ms
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.requests import USER_AGENT
from engine.delivery.targets.answers import ACCEPTED, outcome_of, short, with_hint
from engine.model import Failure, Outcome
from engine.observe.logs import get_logger
from engine.tracing.mark import TRACEPARENT

log = get_logger(__name__)

ANSWER_BYTES_MAX = 6 * 1024 * 1024 + 64 * 1024
"""Lambda's own limit of 6 MB for an answer, with some room."""

USUAL_BYTES_MAX = 1_024
CONTENT_TYPE = "application/json"
_HEADERS = {"Content-Type": CONTENT_TYPE, "User-Agent": USER_AGENT}
WHERE = "aws.region, aws.lambda_endpoint_url"


def context_headers(traceparent: str) -> dict[str, str]:
    """Return what hands a trace's context to the function: ``custom`` of its client context."""
    context = f'{{"custom":{{"{TRACEPARENT}":"{traceparent}"}}}}'
    return {"X-Amz-Client-Context": b64encode(context.encode()).decode()}


class LambdaTarget:
    """One function. Its connections are made at the first use, so after the fork; `invoke` is thread-safe."""

    def __init__(
        self,
        function: str,
        aws: AwsSettings,
        delivery: DeliverySettings,
        *,
        report_item_failures: bool,
        connections_max: int,
        route: str = "",
    ) -> None:
        self.function = function
        self._route = route
        self._is_remarked = False
        self._usual: bytes | None = None
        """The last answer of a function that accepted everything: most give the same one each time."""
        self.aws = aws
        self.delivery = delivery
        self._report_item_failures = report_item_failures
        self._connections_max = connections_max
        self._lock = threading.Lock()
        self._sender: _Sender | None = None
        self._clock = ServiceClock()

    def now_ms(self) -> int:
        """Return Unix time by the service's clock."""
        return self._clock.now_ms()

    def invoke(self, payload: bytes, traceparent: str = "") -> Outcome:
        """Invoke with one payload, and a trace's context; every expected failure is an outcome."""
        return self.ask(payload, traceparent)[0]

    def ask(self, payload: bytes, traceparent: str = "") -> tuple[Outcome, bytes]:
        """Invoke with one payload; return what became of it, and what the function answered, b"" if it did not."""
        try:
            status, headers, body = self._ready().send(payload, context_headers(traceparent) if traceparent else {})
        except EXPECTED as error:
            return self.not_sent(error), b""
        outcome = self.outcome_of(status, headers, body)
        return outcome, body if outcome.failure is Failure.NONE else b""

    def outcome_of(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Return what an answer means; its date is taken in."""
        self._clock.heard(str(headers.get("Date") or ""), monotonic_ms())
        if len(body) > ANSWER_BYTES_MAX:
            return Outcome(Failure.BAD_ANSWER, reason=f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
        size = headers.get("Content-Length")
        if size and size != str(len(body)):
            # Half an answer may look like a complete one: no body at all would mean success.
            reason = f"the answer was cut off after {len(body)} of {size} bytes"
            has_returned = status == 200 and not headers.get("X-Amz-Function-Error")
            return Outcome(Failure.CONNECTION, reason=reason, is_lost=not has_returned)
        if status == 200 and body == self._usual and not headers.get("X-Amz-Function-Error"):
            return ACCEPTED
        outcome = outcome_of(status, headers, body, self.function, report_item_failures=self._report_item_failures)
        if outcome is ACCEPTED and len(body) <= USUAL_BYTES_MAX:
            self._usual = body
        if outcome.remark and not self._is_remarked:
            self._is_remarked = True
            log.warning("answer_misplaced", route=self._route, function=self.function, message=outcome.remark)
        return outcome

    def not_sent(self, error: Exception) -> Outcome:
        """Return what the lack of an answer means."""
        if isinstance(error, SILENCE):
            limit_ms = self.delivery.invoke_timeout_ms
            reason = f"no answer within delivery.invoke_timeout_ms = {limit_ms}"
            return Outcome(Failure.TIMEOUT, reason=reason, is_lost=True)
        failure = Failure.CONNECTION if is_of_the_wire(error) else Failure.REFUSED
        hint = hint_of(error, WHERE)
        reason = with_hint(str(error), hint) if hint else short(str(error))
        return Outcome(failure, reason=reason, is_lost=may_be_lost(error))

    def _ready(self) -> _Sender:
        with self._lock:
            if self._sender is None:
                self._sender = _Sender(self.function, self.aws, self.delivery, self._connections_max)
            return self._sender

    def close(self) -> None:
        """Close connections; the next `invoke` makes new ones."""
        with self._lock:
            if self._sender is not None:
                self._sender.close()
                self._sender = None


class _Sender:
    """Signs and sends requests to one function."""

    def __init__(self, function: str, aws: AwsSettings, delivery: DeliverySettings, connections_max: int) -> None:
        access = access_to(function, aws)
        self._region = access.region
        self._credentials = access.credentials
        self._url = f"{access.endpoint}/2015-03-31/functions/{quote(function, safe='')}/invocations"
        self._session = http_session(access, delivery, connections_max)

    def send(self, payload: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Send one invocation; return status, headers, and at most a byte more of the body than it may have."""
        request = AWSRequest("POST", self._url, data=payload, headers={**_HEADERS, **headers}, stream_output=True)
        # Frozen: key, secret and token as of one moment, though another thread may be renewing them.
        SigV4Auth(self._credentials.get_frozen_credentials(), SERVICE, self._region).add_auth(request)
        response = self._session.send(request.prepare())
        body: bytes = response.raw.read(ANSWER_BYTES_MAX + 1)
        if len(body) > ANSWER_BYTES_MAX:
            response.raw.close()
        response.raw.release_conn()
        return response.status_code, response.headers, body

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()
