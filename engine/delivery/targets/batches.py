"""Records that go to a service of AWS's one by one, in calls of many: what streams and queues share.

Each record is a message of its own, the same JSON that a function gets in its batch. A call returns the identifiers of
those that it did not accept, and only those are sent again. A call without an answer may take effect after all, but not
for long: it gets no more time than an invocation's deadline, and then its connection is closed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from engine.text import counted

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
WHERE = "its region"


class _Named(msgspec.Struct):
    record_id: str
    id: str
    version: int = 0
    event: str = ""
    captured_at_ms: int = 0
    ordinal: int = 0
    db: int = 0
    traceparent: str = ""


class _Records(msgspec.Struct):
    records: list[msgspec.Raw]


_decode_records = msgspec.json.Decoder(_Records).decode
_decode_named = msgspec.json.Decoder(_Named).decode


class Part(msgspec.Struct, gc=False):
    """One record: its identifier in the batch, its key as it is named there, what tells it from others, its JSON, and
    the context of its trace, "" for none.
    """

    record_id: str
    key: str
    identity: str
    data: bytes
    traceparent: str = ""


def parts_of(payload: bytes) -> list[Part]:
    """Return the records of a batch's payload."""
    parts: list[Part] = []
    for raw in _decode_records(payload).records:
        data = bytes(raw)
        one = _decode_named(data)
        identity = f"{one.version}-{one.captured_at_ms}-{one.event}"
        # Several events of one read may be equal in everything else.
        identity += f"-{one.ordinal}" if one.ordinal else ""
        # Keys of the same name in two databases are two keys.
        identity = f"{one.db}:{identity}" if one.db else identity
        parts.append(Part(one.record_id, one.id, identity, data, one.traceparent))
    return parts


class Refusal(msgspec.Struct, frozen=True):
    """Why a call did not take one record."""

    record_id: str
    failure: Failure
    reason: str


class Sending:
    """One payload on its way: which records the next call takes, and what became of those before.  (pure)

    What exceeds a call's limits is refused at once. After a call that failed as a whole there is no other: the rest is
    delivered again together with what that call held.
    """

    def __init__(self, target: BatchTarget, payload: bytes, until_ms: int) -> None:
        self._target = target
        self._parts = parts_of(payload)
        self._until_ms = until_ms
        self._fitting = [part for part in self._parts if target.size_of(part) <= target.record_bytes_max]
        self._refusals = [
            target.too_large(part) for part in self._parts if target.size_of(part) > target.record_bytes_max
        ]
        self._calls = calls_of(self._fitting, target.size_of, target.call_records_max, target.call_bytes_max)
        self._call: list[Part] = []
        self._taken = 0
        self._is_lost = False
        self._has_failed = False

    def next_call(self, moment_ms: int) -> list[Part] | None:
        """Return the records of the next call; None if there is none."""
        if self._has_failed:
            return None
        self._taken += len(self._call)
        self._call = next(self._calls, [])
        if not self._call:
            return None
        if self._taken and moment_ms >= self._until_ms:
            self._fail(Failure.TIMEOUT, "the calls before this one took all of delivery.deadline_ms")
            return None
        return self._call

    def answered(self, refusals: Sequence[Refusal]) -> None:
        """Note which records of the call were not accepted."""
        self._refusals += refusals

    def failed(self, meaning: Meaning) -> None:
        """Note that the call failed as a whole."""
        self._is_lost = meaning.is_lost
        self._fail(meaning.failure, with_hint(meaning.reason, meaning.hint))

    def _fail(self, failure: Failure, reason: str) -> None:
        self._has_failed = True
        self._refusals += [Refusal(part.record_id, failure, reason) for part in self._fitting[self._taken :]]

    def outcome(self) -> Outcome:
        """Return the outcome of the whole payload."""
        return _outcome_of(self._refusals, len(self._parts), self._is_lost)


class Meaning(NamedTuple):
    """What a call's error means, in words, its remedy, and whether the call may still have an effect."""

    failure: Failure
    reason: str
    hint: str
    is_lost: bool


class BatchTarget(ABC):
    """A stream or a queue, by one operation of its service, as boto3 names it (``method``).

    A lane's calls are on its loop (`engine.delivery.targets.batch_flights`). The blocking call here is for proxies that
    are themselves reached over TLS, and for the check before a start: boto3's client sends it, created at the first
    use, hence after the fork.
    """

    method: str
    call_records_max: int
    call_bytes_max: int
    record_bytes_max: int
    rights: str

    def __init__(self, place: TargetArn, aws: AwsSettings, delivery: DeliverySettings, connections_max: int) -> None:
        self.place = place
        self.delivery = delivery
        self._aws = aws
        self._connections_max = connections_max
        self._lock = threading.Lock()
        self._client: Any = None

    @abstractmethod
    def size_of(self, part: Part) -> int:
        """Return what a record counts against the limits of a call, in bytes."""

    @abstractmethod
    def parameters(self, call: Sequence[Part], endpoint: str) -> dict[str, Any]:
        """Return the parameters of a call with these records; ``endpoint`` is the service's URL."""

    @abstractmethod
    def refusals_of(self, call: Sequence[Part], answer: Mapping[str, Any]) -> list[Refusal]:
        """Return which records the call did not accept; raise `AnswerBrokeOff` if the answer does not name all."""

    @abstractmethod
    def look(self, client: Any) -> None:
        """Ask whether the place exists; raises botocore's errors."""

    @property
    def timeout_ms(self) -> int:
        """Return how long a call may take: no longer than its records are fenced for."""
        return min(self.delivery.invoke_timeout_ms, self.delivery.deadline_ms)

    def now_ms(self) -> int:
        """Return Unix time: the other side does not know deadlines."""
        return now_ms()

    def sending(self, payload: bytes) -> Sending:
        """Return the progress of a payload, which begins now."""
        return Sending(self, payload, monotonic_ms() + self.delivery.deadline_ms)

    def invoke(self, payload: bytes) -> Outcome:
        """Send the records of one payload; every expected failure is an outcome."""
        sending = self.sending(payload)
        while (call := sending.next_call(monotonic_ms())) is not None:
            try:
                client = self._ready()
                parameters = self.parameters(call, client.meta.endpoint_url)
                sending.answered(self.refusals_of(call, getattr(client, self.method)(**parameters)))
            except _EXPECTED as error:
                sending.failed(self.meaning_of(error))
        return sending.outcome()

    def problem(self, place: str) -> Problem | None:
        """Return what keeps records from being sent; None if nothing that can be seen does."""
        try:
            self.look(self._ready())
        except _EXPECTED as error:
            meaning = self.meaning_of(error)
            is_passing = passes(error) or meaning.failure in {Failure.THROTTLED, Failure.SERVICE}
            what = f"{self.place.kind} {self.place.arn} can't be used: {meaning.reason}"
            return Problem(place, what, meaning.hint, is_passing)
        return None

    def close(self) -> None:
        """Close connections; the next call makes new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _ready(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = aws_session().client(
                    self.place.service,
                    region_name=self.place.region,
                    config=Config(
                        connect_timeout=self.delivery.connect_timeout_ms / 1_000,
                        read_timeout=self.timeout_ms / 1_000,
                        retries={"total_max_attempts": 1},
                        max_pool_connections=self._connections_max,
                    ),
                )
            return self._client

    def too_large(self, part: Part) -> Refusal:
        """Return the refusal of a record that no call takes."""
        limit = f"the {self.record_bytes_max} that a {self.place.kind} accepts"
        what = f"a record of {self.size_of(part)} bytes exceeds {limit}"
        return Refusal(part.record_id, Failure.OVERSIZE, what)

    def meaning_of(self, error: Exception) -> Meaning:
        """Return what an error of botocore's is."""
        if isinstance(error, ClientError):
            told = error.response.get("Error", {})
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            return self.refused(str(told.get("Code", "")), str(told.get("Message", "")), status)
        failure = Failure.CONNECTION if is_of_the_wire(error) else Failure.REFUSED
        hint = hint_of(error, WHERE) or "check AWS's own settings"
        return Meaning(failure, short(str(error)), hint, may_be_lost(error))

    def refused(self, code: str, message: str, status: int) -> Meaning:
        """Return what a refusal with this code means."""
        hint = f"check the ARN, and whether the {self.place.kind} exists"
        if "AccessDenied" in code:
            hint = f"grant {self.rights} on it to the engine's role or user"
        is_lost = status >= 500 or status == REQUEST_TIMEOUT
        return Meaning(failure_of(code, status), short(f"{code}: {message}"), hint, is_lost)


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
    """Return the outcome of all calls: the worst failure, and the records that it concerns."""
    if not refusals:
        return ACCEPTED
    worst = min(refusals, key=lambda one: _WORST.index(one.failure))
    reason = short(f"{len(refusals)} of {counted(records, 'record')}: {worst.reason}")
    ids = tuple(one.record_id for one in refusals)
    return Outcome(worst.failure, ids, reason, is_lost=is_lost)
