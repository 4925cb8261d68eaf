"""Records that go to a service of AWS's one by one, in calls of many: what streams and queues share.

Each record is a message of its own, the same JSON that a function gets in its batch. Which of them a call has not taken
comes back by identifier, and those alone are sent again. A call that nobody answered may take effect after all, but
not for long: it is given no more time than an invocation's deadline, and then its connection is closed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError

from engine.aws.credentials import aws_session
from engine.aws.target_arns import TargetArn
from engine.aws.wire import EXPECTED, hint_of, is_of_the_wire, may_be_lost, passes
from engine.clock import monotonic_ms, now_ms
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.calls import calls_of
from engine.delivery.targets.answers import ACCEPTED, REQUEST_TIMEOUT, short, with_hint
from engine.errors import Problem
from engine.model import Failure, Outcome

THROTTLES = frozenset(
    {
        "KMSThrottlingException",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_EXPECTED = (ClientError, *EXPECTED)


class _Named(msgspec.Struct):
    record_id: str
    id: str
    version: int = 0
    event: str = ""
    captured_at_ms: int = 0
    ordinal: int = 0


class _Records(msgspec.Struct):
    records: list[msgspec.Raw]


_decode_records = msgspec.json.Decoder(_Records).decode
_decode_named = msgspec.json.Decoder(_Named).decode


class Part(msgspec.Struct, gc=False):
    """One record: its identifier in the batch, its key as it is named there, what tells it from others, its JSON."""

    record_id: str
    key: str
    identity: str
    data: bytes


def parts_of(payload: bytes) -> list[Part]:
    """Return the records of a batch's payload."""
    parts: list[Part] = []
    for raw in _decode_records(payload).records:
        data = bytes(raw)
        one = _decode_named(data)
        identity = f"{one.version}-{one.captured_at_ms}-{one.event}"
        # Several events of one read may be equal in all else.
        parts.append(Part(one.record_id, one.id, f"{identity}-{one.ordinal}" if one.ordinal else identity, data))
    return parts


class Refusal(msgspec.Struct, frozen=True):
    """Why a call did not take one record."""

    record_id: str
    failure: Failure
    reason: str


class BatchTarget(ABC):
    """A stream or a queue. The client is made at the first use, so after the fork."""

    call_records_max: int
    call_bytes_max: int
    record_bytes_max: int

    def __init__(self, place: TargetArn, aws: AwsSettings, delivery: DeliverySettings, connections_max: int) -> None:
        self._place = place
        self._aws = aws
        self._delivery = delivery
        self._connections_max = connections_max
        self._lock = threading.Lock()
        self._client: Any = None

    @abstractmethod
    def size_of(self, part: Part) -> int:
        """Return what a record counts against the limits of a call, in bytes."""

    @abstractmethod
    def send(self, client: Any, call: Sequence[Part]) -> list[Refusal]:
        """Make one call; return which records it has not taken. Raises botocore's errors."""

    @abstractmethod
    def look(self, client: Any) -> None:
        """Ask whether the place is there; raises botocore's errors."""

    def now_ms(self) -> int:
        """Return Unix time: nobody on the other side knows of deadlines."""
        return now_ms()

    def invoke(self, payload: bytes) -> Outcome:
        """Send the records of one payload; every expected failure is an outcome."""
        parts = parts_of(payload)
        refusals = [self._too_large(part) for part in parts if self.size_of(part) > self.record_bytes_max]
        fitting = [part for part in parts if self.size_of(part) <= self.record_bytes_max]
        until_ms = monotonic_ms() + self._delivery.deadline_ms
        is_lost, taken = False, 0
        for call in calls_of(fitting, self.size_of, self.call_records_max, self.call_bytes_max):
            failure, reason = Failure.NONE, ""
            if taken and monotonic_ms() >= until_ms:
                failure, reason = Failure.TIMEOUT, "the calls before this one took all of delivery.deadline_ms"
            else:
                try:
                    refusals += self.send(self._ready(), call)
                except _EXPECTED as error:
                    failure, reason, hint, is_lost = self._meaning(error)
                    reason = with_hint(reason, hint)
            if failure is not Failure.NONE:
                refusals += [Refusal(part.record_id, failure, reason) for part in fitting[taken:]]
                break
            taken += len(call)
        return _outcome_of(refusals, len(parts), is_lost)

    def problem(self, place: str) -> Problem | None:
        """Return what keeps records from being sent; None if nothing that can be seen does."""
        try:
            self.look(self._ready())
        except _EXPECTED as error:
            failure, reason, hint, _ = self._meaning(error)
            is_passing = passes(error) or failure in {Failure.THROTTLED, Failure.SERVICE}
            return Problem(place, f"{self._place.kind} {self._place.arn} can't be used: {reason}", hint, is_passing)
        return None

    def close(self) -> None:
        """Give back connections; the next call makes new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _ready(self) -> Any:
        with self._lock:
            if self._client is None:
                delivery = self._delivery
                timeout_ms = min(delivery.invoke_timeout_ms, delivery.deadline_ms)
                self._client = aws_session().client(
                    self._place.service,
                    region_name=self._place.region,
                    config=Config(
                        connect_timeout=delivery.connect_timeout_ms / 1_000,
                        read_timeout=timeout_ms / 1_000,
                        retries={"total_max_attempts": 1},
                        max_pool_connections=self._connections_max,
                    ),
                )
            return self._client

    def _too_large(self, part: Part) -> Refusal:
        what = (
            f"a record of {self.size_of(part)} bytes is more than the {self.record_bytes_max} of a {self._place.kind}"
        )
        return Refusal(part.record_id, Failure.OVERSIZE, what)

    def _meaning(self, error: Exception) -> tuple[Failure, str, str, bool]:
        """Return what a call's error is, in words, its remedy, and whether the call may have an effect yet."""
        if isinstance(error, ClientError):
            told = error.response.get("Error", {})
            code, status = str(told.get("Code", "")), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            failure = failure_of(code, status)
            reason = f"{code}: {told.get('Message', '')}"
            return failure, short(reason), self._hint(code), status >= 500 or status == REQUEST_TIMEOUT
        failure = Failure.CONNECTION if is_of_the_wire(error) else Failure.REFUSED
        hint = hint_of(error, "its region") or "check AWS's own settings"
        return failure, short(str(error)), hint, may_be_lost(error)

    def _hint(self, code: str) -> str:
        if "AccessDenied" in code:
            return f"grant {self.rights} on it to the engine's role or user"
        return f"check the ARN, and whether the {self._place.kind} is there"

    rights: str


def failure_of(code: str, status: int = 0) -> Failure:
    """Return what an error code of the service means for the records."""
    code = code.rpartition(".")[2]
    if code in THROTTLES or status == 429:
        return Failure.THROTTLED
    return (
        Failure.SERVICE
        if status >= 500 or status == REQUEST_TIMEOUT or "Internal" in code or "Unavailable" in code
        else Failure.REFUSED
    )


_WORST = (
    Failure.CONNECTION,
    Failure.TIMEOUT,
    Failure.REFUSED,
    Failure.SERVICE,
    Failure.THROTTLED,
    Failure.ITEMS,
    Failure.OVERSIZE,
)


def _outcome_of(refusals: Sequence[Refusal], records: int, is_lost: bool) -> Outcome:
    """Return the outcome of all calls: the worst failure, and whom it concerns."""
    if not refusals:
        return ACCEPTED
    worst = min(refusals, key=lambda one: _WORST.index(one.failure))
    reason = short(f"{len(refusals)} of {records} records: {worst.reason}")
    ids = tuple(one.record_id for one in refusals)
    return Outcome(worst.failure, ids, reason, is_lost=is_lost)
