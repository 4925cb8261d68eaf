"""Streams and queues on the invoker's loop: the same requests, the same meaning of every answer, as by boto3."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.aws.template import template_of
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.targets.batches import BatchTarget
from engine.delivery.targets.make import make_target
from engine.model import Failure, Outcome
from tests.faulty_service import Script, answers, in_tls, is_silent, relays, serving
from tests.lambda_service import InTheLoop
from tests.tls_proxy import Certificates, make_certificates, tls_in_front_of

ACCOUNT, REGION = "123456789012", "us-east-1"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/carts"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:carts"
FIFO = f"{QUEUE}.fifo"
ARNS = (STREAM, QUEUE, FIFO)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> Iterator[pytest.MonkeyPatch]:
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
    yield monkeypatch


def made(monkeypatch: pytest.MonkeyPatch, arn: str, endpoint: str, **delivery: int) -> BatchTarget:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", endpoint)
    target = make_target(RouteSettings("r", arn), AwsSettings(), DeliverySettings(**delivery))
    assert isinstance(target, BatchTarget)
    return target


def payload(count: int, body: str = '{"tea":"käse\uffff"}') -> bytes:
    records = [
        {"record_id": str(n), "id": f"key:{n}", "body": body, "version": 7, "event": "hset", "captured_at_ms": 1}
        for n in range(count)
    ]
    return orjson.dumps({"records": records, "deadline_ms": 1})


class Seen:
    """Answers requests in their order, over and over the last, and keeps what was asked: (head, body)."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._lock = threading.Lock()
        self.requests: list[tuple[dict[str, str], bytes]] = []

    def __call__(self, sock: socket.socket) -> None:
        while sock.recv(1, socket.MSG_PEEK):
            with self._lock:
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
            head, body = _request(sock)
            self.requests.append((head, body))
            script(_Read(sock))  # type: ignore[arg-type]


class _Read:
    """A socket whose request has been read already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = [b"POST / HTTP/1.1\r\n\r\n"]

    def recv(self, size: int) -> bytes:
        return self._unread.pop() if self._unread else self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)


def _request(sock: socket.socket) -> tuple[dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += sock.recv(65_536)
    return {"": first, **headers}, body


def accepted(arn: str, count: int) -> bytes:
    """Return the answer to a call of which all was taken."""
    if arn == STREAM:
        return orjson.dumps({"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "ShardId": "s"}] * count})
    return orjson.dumps({"Successful": [{"Id": str(number), "MessageId": "m"} for number in range(count)]})


def both(monkeypatch: pytest.MonkeyPatch, arn: str, script: Script, count: int = 2) -> tuple[Outcome, Outcome]:
    """Return what becomes of a payload in the loop, and by boto3, where every request is served by the script."""
    outcomes = []
    for is_looped in (True, False):
        with serving(script) as port:
            target = made(monkeypatch, arn, f"http://127.0.0.1:{port}")
            outcomes.append((InTheLoop(target) if is_looped else target).invoke(payload(count)))
            target.close()
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize("base", ["", "/base"])
@pytest.mark.parametrize("arn", ARNS)
def test_requests_are_those_of_boto3(surroundings: pytest.MonkeyPatch, arn: str, base: str) -> None:
    """Path, protocol, what is signed and the body's content are what boto3 sends, also below a path of the endpoint."""
    found: list[tuple[str, dict[str, str], Any]] = []
    for is_looped in (True, False):
        seen = Seen(answers(200, accepted(arn, 3)))
        with serving(seen) as port:
            target = made(surroundings, arn, f"http://127.0.0.1:{port}{base}")
            assert (InTheLoop(target) if is_looped else target).invoke(payload(3)) == Outcome()
            target.close()
        (head, body), *more = seen.requests
        assert not more
        text = body.decode().replace(f":{port}", ":port")
        signed = head["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        same = ("content-type", "x-amz-target", "x-amzn-query-mode", "x-amz-security-token")
        found.append((head[""], {"signed": signed, **{n: head.get(n, "") for n in same}}, orjson.loads(text)))
    assert found[0] == found[1]


ERRORS = {
    "throttled": (400, b'{"__type":"ProvisionedThroughputExceededException","message":"m"}', ()),
    "a name space": (400, b'{"__type":"com.amazonaws.kinesis#ResourceNotFoundException","Message":"m"}', ()),
    "no right": (400, b'{"__type":"AccessDeniedException","Message":"m"}', ()),
    "codes of the older protocol": (
        400,
        b'{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"m"}',
        ("x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender",),
    ),
    "throttled by the older protocol": (
        403,
        b'{"__type":"com.amazon.coral.service#RequestThrottled","message":"m"}',
        ("x-amzn-query-error: RequestThrottled;Sender",),
    ),
    "its own trouble": (500, b'{"__type":"InternalFailure","message":"m"}', ()),
    "busy": (503, b'{"__type":"ServiceUnavailable"}', ()),
    "too many": (429, b"{}", ()),
    "a gateway's": (502, b"<html>", ()),
}


@pytest.mark.parametrize("arn", [STREAM, QUEUE])
@pytest.mark.parametrize("name", ERRORS)
def test_a_refused_call_means_what_it_does_by_boto3(surroundings: pytest.MonkeyPatch, arn: str, name: str) -> None:
    """Code, remedy, what fails and whether it may take effect yet are those of boto3's reading of the answer."""
    status, body, headers = ERRORS[name]
    looped, blocking = both(surroundings, arn, Seen(answers(status, body, *headers)))
    assert looped.failure is blocking.failure
    assert (looped.failed_ids, looped.is_lost) == (blocking.failed_ids, blocking.is_lost)
    assert looped.failed_ids == ("0", "1")
    if body.startswith(b'{"__type'):
        assert looped.reason == blocking.reason


PARTIAL = {
    STREAM: {"Records": [{"SequenceNumber": "1"}, {"ErrorCode": "InternalFailure", "ErrorMessage": "m"}]},
    QUEUE: {
        "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}],
        "Failed": [{"Id": "1", "SenderFault": False, "Code": "InternalError", "Message": "m"}],
    },
}


@pytest.mark.parametrize("arn", [STREAM, QUEUE])
def test_a_partial_failure_concerns_its_records_alone(surroundings: pytest.MonkeyPatch, arn: str) -> None:
    """What a call took is not sent again, and what it did not is told by its reason."""
    looped, blocking = both(surroundings, arn, Seen(answers(200, orjson.dumps(PARTIAL[arn]))))
    assert looped == blocking
    assert (looped.failure, looped.failed_ids) == (Failure.SERVICE, ("1",))


@pytest.mark.parametrize("arn", [STREAM, QUEUE])
@pytest.mark.parametrize("body", [b"{}", b"", b"[]", b"<html>", b'{"Records":[{}]}', b'{"Successful":[{"Id":"0"}]}'])
def test_an_answer_that_does_not_name_every_record_is_none(
    surroundings: pytest.MonkeyPatch, arn: str, body: bytes
) -> None:
    """It settles nothing, and the call may have taken effect."""
    with serving(Seen(answers(200, body))) as port:
        outcome = InTheLoop(made(surroundings, arn, f"http://127.0.0.1:{port}")).invoke(payload(2))
    assert outcome.failure is Failure.CONNECTION
    assert outcome.is_lost
    assert outcome.failed_ids == ("0", "1")


def test_calls_of_a_batch_follow_each_other_on_one_connection(surroundings: pytest.MonkeyPatch) -> None:
    """Of 25 messages three calls are made; what the first two took is settled though the third is not answered."""
    script = Seen(answers(200, accepted(QUEUE, 10)), answers(200, accepted(QUEUE, 10)), is_silent)
    with serving(script) as port:
        loop = InTheLoop(made(surroundings, QUEUE, f"http://127.0.0.1:{port}", invoke_timeout_ms=500))
        outcome = loop.invoke(payload(25))
    assert outcome.failed_ids == tuple(str(number) for number in range(20, 25))
    assert outcome.is_lost
    assert [len(orjson.loads(body)["Entries"]) for _, body in script.requests] == [10, 10, 5]
    assert loop.sockets.next_expiry_ms() is None


def test_what_no_call_takes_is_refused_without_one(surroundings: pytest.MonkeyPatch) -> None:
    """A batch that has nothing but a record past all limits ends at once, and asks nobody."""
    loop = InTheLoop(made(surroundings, QUEUE, "http://127.0.0.1:1"))
    outcome = loop.invoke(payload(1, body="x" * 300_000))
    assert (outcome.failure, outcome.failed_ids) == (Failure.OVERSIZE, ("0",))


@pytest.mark.parametrize("arn", [STREAM, QUEUE])
def test_a_proxy_that_wants_tls_itself_leads_there_too(
    surroundings: pytest.MonkeyPatch, certificates: Certificates, arn: str
) -> None:
    """That way botocore alone knows: it is asked in a helper thread."""
    with ExitStack() as stack:
        service = stack.enter_context(serving(in_tls(certificates, answers(200, accepted(arn, 2)))))
        proxy = stack.enter_context(serving(relays(service)))
        port = stack.enter_context(tls_in_front_of(proxy, certificates))
        surroundings.setenv("https_proxy", f"https://127.0.0.1:{port}")
        loop = InTheLoop(made(surroundings, arn, f"https://127.0.0.1:{service}"))
        assert loop.invoke(payload(2)) == Outcome()
        loop.target.close()


def test_endpoints_are_those_that_botocore_finds(surroundings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stream's account has an endpoint of its own; another partition and FIPS have theirs, without being asked."""
    (tmp_path / "config").write_text("[default]\nuse_fips_endpoint = true\n")

    def endpoint(region: str, partition: str = "aws") -> str:
        arn = STREAM.replace(REGION, region).replace("arn:aws:", f"arn:{partition}:")
        record = {"Data": b"{}", "PartitionKey": "a"}
        return template_of("kinesis", region, "put_records", lambda _: {"StreamARN": arn, "Records": [record]}).endpoint

    assert endpoint("eu-west-1") == f"https://{ACCOUNT}.data-kinesis.eu-west-1.amazonaws.com"
    assert endpoint("cn-north-1", "aws-cn").endswith(".cn-north-1.amazonaws.com.cn")
    surroundings.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "fips" in endpoint("us-east-1")


def test_credentials_are_renewed_before_they_end(surroundings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that end within botocore's own margin are asked for anew, in a helper thread, and sign what follows."""
    count, script = tmp_path / "count", tmp_path / "credentials.sh"
    script.write_text(
        f"echo x >> {count}\n"
        "at=$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)\n"
        f'echo "{{\\"Version\\": 1, \\"AccessKeyId\\": \\"key$(wc -l < {count} | tr -d " ")\\",'
        ' \\"SecretAccessKey\\": \\"s\\", \\"Expiration\\": \\"$at\\"}"\n'
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        surroundings.delenv(name)
    surroundings.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    seen = Seen(answers(200, accepted(QUEUE, 1)))
    with serving(seen) as port:
        loop = InTheLoop(made(surroundings, QUEUE, f"http://127.0.0.1:{port}"))
        for _ in range(3):
            assert loop.invoke(payload(1)) == Outcome()
    keys = [head["authorization"].partition("Credential=")[2].partition("/")[0] for head, _ in seen.requests]
    assert len(set(keys)) == 3
    # Each came with a connection of its own, and took the place of the one before.
    assert len(loop.flights.requests.idle) == 1
