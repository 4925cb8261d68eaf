"""The DynamoDB function's calls over real sockets: when their first byte may be sent, and who has signed them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest

from engine.sandbox.aws import sandbox_environment
from lambdas.contract import Deadline, DestinationUnavailable
from lambdas.dynamodb.calls import Write
from lambdas.dynamodb.client import Client
from lambdas.dynamodb.settings import Settings
from lambdas.dynamodb.versioned import VersionedWriter
from lambdas.dynamodb.writer import BatchWriter
from lambdas.repeats import TimeLeft, TooLate

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Service:
    """A DynamoDB of a few lines: ``answers`` says what it answers to each call, None for nothing at all."""

    answers: Callable[[dict[str, str], dict[str, Any]], Answer | None]
    endpoint: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    """The headers of the calls whose first byte came."""


@contextmanager
def served(service: Service) -> Iterator[Service]:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        service.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                while request := received(connection):
                    service.calls.append(request[0])
                    answer = service.answers(*request)
                    if answer is None:
                        return
                    status, headers, body = answer
                    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                    connection.sendall(
                        f"HTTP/1.1 {status} X\r\n{told}Content-Length: {len(body)}\r\n\r\n".encode() + body
                    )

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield service
        finally:
            ended.set()
            thread.join()


def received(connection: socket.socket) -> tuple[dict[str, str], dict[str, Any]] | None:
    data = b""
    while True:
        head, _, body = data.partition(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        if size and len(body) == int(size[1]):
            lines = head.decode().split("\r\n")[1:]
            pairs = [line.partition(": ") for line in lines]
            headers = {name.lower(): value for name, _, value in pairs}
            return headers, json.loads(body)
        part = connection.recv(65_536)
        if not part:
            return None
        data += part


def taking(_headers: dict[str, str], request: dict[str, Any]) -> Answer:
    statements = request.get("Statements", ())
    return 200, {}, json.dumps({"UnprocessedItems": {}, "Responses": [{} for _ in statements]}).encode()


def refusing(code: str, **headers: str) -> Answer:
    return 400, headers, json.dumps({"__type": f"com.amazon.coral.service#{code}", "message": "said so"}).encode()


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    def make(service: Service, settings: Settings, **options: Any) -> Client:
        for name, value in sandbox_environment(dynamodb_endpoint=service.endpoint).items():
            monkeypatch.setenv(name, value)
        return Client(settings, **options)

    return make


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def in_ms(left_ms: int) -> TimeLeft:
    return TimeLeft(lambda: 60_000, Deadline(now_ms() + left_ms), now_ms)


def writes(*keys: str) -> list[Write]:
    return [Write(key, {"id": {"S": key}, "version": {"N": "1"}}, 10) for key in keys]


WRITERS: Sequence[Any] = (BatchWriter, VersionedWriter)


def slow_name_server(monkeypatch: pytest.MonkeyPatch, clock: list[int], *answers_after_ms: int) -> None:
    """Have names resolved only after so long, by the tests' clock."""
    resolve, waits = socket.getaddrinfo, list(answers_after_ms)

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += waits.pop(0)
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)


def until(deadline_ms: int, clock: list[int]) -> TimeLeft:
    return TimeLeft(lambda: 60_000, Deadline(deadline_ms), lambda: clock[0])


@pytest.mark.parametrize("make", WRITERS)
def test_a_slow_name_server_sends_no_write_late(
    client_of: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """The deadline is asked just before the first byte: a name that is resolved after it leads to no write."""
    settings, clock = Settings("table"), [5_000]
    with served(Service(taking)) as service:
        slow_name_server(monkeypatch, clock, 10_000)
        writer = make(client_of(service, settings), settings)
        failed = writer.write(writes("a"), until(14_000, clock))
        assert "too near" in failed["a"]
        assert service.calls == []
        # The connection is there now: the next invocation does not wait for the name server again.
        assert writer.write(writes("a"), until(25_000, clock)) == {}
        assert len(service.calls) == 1


@pytest.mark.parametrize("make", WRITERS)
def test_a_call_that_would_not_end_in_time_is_not_made(client_of: Callable[..., Client], make: Any) -> None:
    """What is left must hold the call's own timeout, or half of the time that there was at first."""
    settings = Settings("table", read_timeout_ms=2_000)
    with served(Service(taking)) as service:
        writer = make(client_of(service, settings), settings)
        clock, remaining_ms = [1], [10_000]
        by_deadline = until(10_001, clock)
        by_lambda = TimeLeft(lambda: remaining_ms[0], Deadline(), lambda: 1)
        clock[0] += 8_001
        remaining_ms[0] = 1_999
        for time_left in (by_deadline, by_lambda):
            assert "too near" in writer.write(writes("a"), time_left)["a"]
        assert service.calls == []
        assert writer.write(writes("a"), until(10_001, clock)) == {}


@pytest.mark.parametrize(("left_ms", "call_ms"), [(10_000, 2_000), (4_000, 2_000), (1_000, 500), (1, 0)])
def test_nobody_waits_for_a_call_past_the_deadline(left_ms: int, call_ms: int) -> None:
    """However long a call's own timeout is, it is over before the deadline; a short deadline leaves room for some."""
    time_left = until(5_000 + left_ms, clock := [5_000])
    assert time_left.call_ms(2_000) == call_ms
    clock[0] += left_ms - max(1, call_ms)
    assert time_left.call_ms(2_000) == call_ms
    clock[0] += 1
    with pytest.raises(TooLate):
        time_left.call_ms(2_000)
    assert time_left.is_over()
    assert not time_left.allows(0, 0)


def test_a_lost_calls_late_effect_counts_from_its_first_byte(
    client_of: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that the connection took is no part of the time in which a lost call may take effect."""
    settings, clock, slept = Settings("table", late_effect_ms=4_000, attempts_max=1), [1], list[float]()
    with served(Service(lambda headers, request: None)) as service:
        slow_name_server(monkeypatch, clock, 3_000)
        writer = BatchWriter(client_of(service, settings), settings, sleep=slept.append)
        assert "did not answer" in writer.write(writes("a"), until(10_001, clock))["a"]
    assert len(service.calls) == 1
    assert slept == [4.0]


SIGNATURE_ERRORS = (
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "RequestExpired",
    "RequestTimeTooSkewed",
)


@pytest.mark.parametrize("make", WRITERS)
@pytest.mark.parametrize("code", SIGNATURE_ERRORS)
def test_a_signature_that_is_not_taken_is_nobodys_fault(client_of: Callable[..., Client], make: Any, code: str) -> None:
    """No item is suspected: the call is not halved, and the invocation ends with an error that is no attempt."""
    settings = Settings("table", attempts_max=3)
    with served(Service(lambda *_: refusing(code))) as service:
        writer = make(client_of(service, settings), settings, sleep=lambda _: None)
        with pytest.raises(DestinationUnavailable, match=code):
            writer.write(writes("a", "b", "c", "d"), in_ms(10_000))
    assert len(service.calls) == 3


@pytest.mark.parametrize("make", WRITERS)
def test_a_call_is_signed_anew_by_newer_credentials(
    client_of: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """Credentials that have expired are looked up again, and the write is made in the same invocation."""

    def answer(headers: dict[str, str], request: dict[str, Any]) -> Answer:
        if "RENEWED" in headers["authorization"]:
            return taking(headers, request)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "RENEWED")
        return refusing("ExpiredTokenException")

    settings = Settings("table")
    with served(Service(answer)) as service:
        writer = make(client_of(service, settings), settings)
        assert writer.write(writes("a", "b"), in_ms(10_000)) == {}
    assert len(service.calls) == 2


def test_a_call_is_signed_by_the_services_clock(client_of: Callable[..., Client]) -> None:
    """A clock that is an hour off is corrected by what the service says, and the write is made."""

    def answer(headers: dict[str, str], request: dict[str, Any]) -> Answer:
        stamp = time.strftime("%Y%m%dT%H", time.gmtime())
        if headers["x-amz-date"].upper().startswith(stamp):
            return taking(headers, request)
        return refusing("InvalidSignatureException", Date=formatdate(time.time(), usegmt=True))

    settings = Settings("table")
    with served(Service(answer)) as service:
        writer = BatchWriter(client_of(service, settings, now_s=lambda: time.time() - 7_200), settings)
        assert writer.write(writes("a"), in_ms(10_000)) == {}
    assert len(service.calls) == 2
