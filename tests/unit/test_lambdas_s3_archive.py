"""The archive function before a bucket of moto's, with a clock and a network that the tests turn."""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from moto import mock_aws

from lambdas.contract import ContractError, DestinationUnavailable, SetupError
from lambdas.s3_archive import handler as function
from lambdas.s3_archive.settings import Settings, read_settings
from lambdas.s3_archive.writer import ArchiveWriter

NOW_MS = 1_763_890_000_000  # 2025-11-23T09:26:40Z
NEXT_HOUR_MS = NOW_MS + 2_000_000  # 10:00:00
ANSWERED: dict[str, Any] = {"batchItemFailures": []}
HERE = "carts/date=2025-11-23/hour=09/"


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class World:
    """The function's container, its bucket and its time; ``faults`` strike the next calls, one each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now_us = NOW_MS * 1_000
        self.settings = Settings(**{"bucket": "history", "prefix": "carts/", **settings})
        self.s3 = boto3.client("s3", region_name="eu-west-1")
        self.meta = self.s3.meta
        self.faults: list[Callable[[dict[str, Any]], None]] = []
        self.requests: list[dict[str, Any]] = []
        self.sleeps: list[float] = []
        self.s3.create_bucket(Bucket="history", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.connected = 0
        writer = ArchiveWriter(self.connect, self.settings, sleep=self.sleep, rng=lambda: 1.0)
        monkeypatch.setattr(function, "now_us", lambda: self.now_us)
        monkeypatch.setattr(function, "_settings", lambda: self.settings)
        monkeypatch.setattr(function, "_writer", lambda: writer)

    def connect(self) -> World:
        self.connected += 1
        return self

    def put_object(self, **request: Any) -> Any:
        self.requests.append(request)
        if self.faults:
            self.faults.pop(0)(request)
        return self.s3.put_object(**request)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_us += round(seconds * 1_000_000)

    def invoke(self, *records: dict[str, Any], deadline_ms: int = 0) -> Any:
        return function.handler({"records": list(records), "deadline_ms": deadline_ms}, Context())

    def failed(self, *records: dict[str, Any], deadline_ms: int = 0) -> list[str]:
        answer = self.invoke(*records, deadline_ms=deadline_ms)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def names(self) -> list[str]:
        return [item["Key"] for item in self.s3.list_objects_v2(Bucket="history").get("Contents", [])]

    def lines(self) -> list[dict[str, Any]]:
        bodies = [self.s3.get_object(Bucket="history", Key=name)["Body"].read() for name in self.names()]
        return [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with mock_aws():
        yield lambda **settings: World(monkeypatch, **settings)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def delivered(number: int, body: str | None = '{"tea":"2"}', **more: Any) -> dict[str, Any]:
    """Return a record as the engine delivers it."""
    key = f"cart:{number}"
    return {
        "record_id": str(number),
        "id": key,
        "obj_name": key,
        "body": body,
        "event": "hset" if body is not None else "del",
        "type": "hash" if body is not None else "none",
        "db": 0,
        "version": (NOW_MS + number) * 1_000,
        "captured_at_ms": NOW_MS + number,
        **more,
    }


def answering(code: str, status: int = 400) -> Callable[[dict[str, Any]], None]:
    """Return a fault: S3 answers with this error."""
    told: Any = {"Error": {"Code": code, "Message": "said so"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return raising(ClientError(told, "PutObject"))


def raising(error: ClientError | BotoCoreError) -> Callable[[dict[str, Any]], None]:
    def fault(_request: dict[str, Any]) -> None:
        raise error

    return fault


def test_a_batch_is_an_object(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """499 records are lines of one object; the one that cannot be is named, and its reason logged."""
    records = [delivered(number) for number in range(500)]
    records[123]["body"] = "{"
    assert world.failed(*records) == ["123"]
    (name,) = world.names()
    assert name.startswith(f"{HERE}{NOW_MS * 1_000}-499-")
    assert name.endswith(".json.gz")
    assert [line["key"] for line in world.lines()] == [f"cart:{n}" for n in range(500) if n != 123]
    logged = json.loads(capsys.readouterr().out)
    assert (logged["event"], logged["key"], "not JSON" in logged["reason"]) == ("record_failed", "cart:123", True)


def test_a_batch_of_two_hours_is_two_objects(world: World) -> None:
    """Each partition has its own object, and they fail apart."""
    records = [delivered(0), delivered(1, captured_at_ms=NEXT_HOUR_MS)]
    world.faults = [answering("InvalidRequest")]
    assert world.failed(*records) == ["0"]
    assert [name.split("/")[2] for name in world.names()] == ["hour=10"]
    assert world.invoke(*records) == ANSWERED
    assert [name.split("/")[2] for name in world.names()] == ["hour=09", "hour=10"]


def test_a_repeated_invocation_adds_nothing(world: World) -> None:
    """The same records leave the same one object; a later value of a key is a further line."""
    for _ in range(3):
        assert world.invoke(delivered(1), delivered(2)) == ANSWERED
    assert len(world.names()) == 1
    world.invoke(delivered(1, '{"tea":"3"}', version=(NOW_MS + 9) * 1_000))
    assert [line["value"] for line in world.lines() if line["key"] == "cart:1"] == ['{"tea":"2"}', '{"tea":"3"}']


def test_a_lost_answer_leaves_one_object(world: World) -> None:
    """A call that took effect without an answer is made again, and replaces its object with itself."""

    def lost(request: dict[str, Any]) -> None:
        world.s3.put_object(**request)
        raise ReadTimeoutError(endpoint_url="https://s3")

    world.faults = [lost]
    assert world.invoke(delivered(1)) == ANSWERED
    assert (len(world.requests), len(world.lines())) == (2, 1)


@pytest.mark.parametrize(
    "fault",
    [
        answering("SlowDown", 503),
        answering("InternalError", 500),
        answering("RequestTimeout", 400),
        answering("BadDigest", 400),
        answering("KMS.ThrottlingException", 400),
        raising(EndpointConnectionError(endpoint_url="https://s3")),
    ],
)
def test_what_passes_is_tried_again(world: World, fault: Callable[[dict[str, Any]], None]) -> None:
    """Throttles, outages and damage on the way are no failure of the records; waits grow."""
    world.faults = [fault, fault]
    assert world.invoke(delivered(1)) == ANSWERED
    assert world.sleeps == [0.025, 0.05]


def test_attempts_are_counted(make_world: Callable[..., World], capsys: pytest.CaptureFixture[str]) -> None:
    """When they are used up, the records fail with what S3 said last."""
    world = make_world(attempts_max=3)
    world.faults = [answering("SlowDown", 503)] * 9
    assert world.failed(delivered(1), delivered(2)) == ["1", "2"]
    assert len(world.requests) == 3
    assert "SlowDown" in capsys.readouterr().out


def test_no_wait_leaves_the_invocation_without_time(make_world: Callable[..., World]) -> None:
    """With too little time left for a wait, the rest fails at once instead of being cut off."""
    world = make_world(reserve_ms=60_000)
    world.faults = [answering("SlowDown", 503)]
    assert world.failed(delivered(1)) == ["1"]
    assert world.sleeps == []


def test_no_write_starts_after_the_deadline(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes late, and what a repeat would make late, is answered as failed and never sent."""
    assert world.failed(delivered(1), deadline_ms=NOW_MS - 1) == ["1"]
    assert world.requests == []
    assert "the batch's deadline has passed" in capsys.readouterr().out
    world.faults = [answering("SlowDown", 503)] * 9
    assert world.failed(delivered(1), deadline_ms=NOW_MS + 100) == ["1"]
    assert world.now_us < (NOW_MS + 100) * 1_000
    assert world.names() == []


def test_a_deadline_between_two_objects(world: World) -> None:
    """The object that was put in time is settled; the other one's records come back."""
    world.faults = [lambda request: world.sleep(1)]
    records = [delivered(0), delivered(1, captured_at_ms=NEXT_HOUR_MS)]
    assert world.failed(*records, deadline_ms=NOW_MS + 500) == ["1"]
    assert len(world.names()) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (answering("AccessDenied", 403), r"may not write to history/carts/\*: grant s3:PutObject"),
        (answering("NoSuchBucket", 404), "no bucket history in eu-west-1: create it"),
        (answering("PermanentRedirect", 301), "not in eu-west-1"),
        (answering("KMS.DisabledException", 400), "check ARCHIVE_KMS_KEY_ID"),
        (raising(NoCredentialsError()), "cannot be called"),
    ],
)
def test_a_wrong_set_up_is_one_clear_error(world: World, fault: Callable[[dict[str, Any]], None], words: str) -> None:
    """What no retry can mend is raised at once, for a batch and for the empty one, and names the remedy."""
    for records in ([delivered(1)], []):
        world.faults = [fault]
        with pytest.raises(SetupError, match=words):
            world.invoke(*records)
    assert (len(world.requests), world.sleeps) == (2, [])


def test_a_missing_right_to_the_key_is_named(make_world: Callable[..., World]) -> None:
    """With a key of its own, the function needs a right to it too."""
    world = make_world(encryption="aws:kms", kms_key_id="alias/history")
    world.faults = [answering("AccessDenied", 403)]
    with pytest.raises(SetupError, match="kms:GenerateDataKey on alias/history"):
        world.invoke(delivered(1))


def test_a_bucket_that_does_not_exist(make_world: Callable[..., World]) -> None:
    """S3's own answer is understood: the error names the bucket."""
    world = make_world(bucket="absent")
    for records in ([delivered(1)], []):
        with pytest.raises(SetupError, match="no bucket absent"):
            world.invoke(*records)


def test_a_name_that_no_bucket_has_is_one_clear_error(make_world: Callable[..., World]) -> None:
    """What the client itself refuses is told before anything is sent."""
    world = make_world(bucket="arn:aws:s3:eu-west-1:123456789012:accesspoint:")
    with pytest.raises(SetupError, match="check ARCHIVE_BUCKET"):
        world.invoke()


def test_an_empty_batch_leaves_an_empty_object_at_most(world: World) -> None:
    """The check writes one object, always the same, in the function's own folder; an outage is no finding."""
    for _ in range(2):
        assert world.invoke() == ANSWERED | {"refusesOlderVersions": True}
    assert world.names() == ["carts/.check"]
    assert world.requests[0]["Body"] == b""
    world.faults = [answering("SlowDown", 503)]
    assert world.invoke() == ANSWERED | {"refusesOlderVersions": True}
    world.faults = [answering("InvalidRequest")]
    with pytest.raises(SetupError, match="does not accept our object: InvalidRequest"):
        world.invoke()


def test_objects_are_encrypted_and_verified(make_world: Callable[..., World]) -> None:
    """Each object carries its checksum, and names the key where there is one; so does the check."""
    world = make_world(encryption="aws:kms", kms_key_id="alias/history")
    world.invoke()
    world.invoke(delivered(1))
    for request in world.requests:
        assert b64decode(request["ChecksumSHA256"]) == hashlib.sha256(request["Body"]).digest()
        assert (request["ServerSideEncryption"], request["SSEKMSKeyId"]) == ("aws:kms", "alias/history")
    assert world.s3.head_object(Bucket="history", Key=world.names()[1])["ServerSideEncryption"] == "aws:kms"


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        ({}, {}),
        ({"ARCHIVE_ENCRYPTION": "AES256"}, {"ServerSideEncryption": "AES256"}),
        ({"ARCHIVE_ENCRYPTION": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
        ({"ARCHIVE_KMS_KEY_ID": "k"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}),
    ],
)
def test_the_headers_of_the_encryption(
    make_world: Callable[..., World], environ: dict[str, str], headers: dict[str, str]
) -> None:
    """Each object asks for what a bucket's policy may want, and for nothing where the bucket is to decide."""
    read = read_settings({"ARCHIVE_BUCKET": "history", **environ})
    world = make_world(encryption=read.encryption, kms_key_id=read.kms_key_id)
    world.invoke()
    assert {name: value for name, value in world.requests[0].items() if name.startswith(("Server", "SSE"))} == headers


def test_the_originals_payload(world: World) -> None:
    """One record an invocation becomes a line; what it lacks is the moment at which it came."""
    assert function.handler({"id": "person1", "obj_name": "person1", "body": '{"a":"b"}'}, Context()) == ANSWERED
    (line,) = world.lines()
    assert (line["key"], line["value"]) == ("person1", '{"a":"b"}')
    assert (line["captured_at"], line["version"]) == ("2025-11-23T09:26:40.000Z", NOW_MS * 1_000)
    with pytest.raises(RuntimeError, match="'person1' was not written: the body is not JSON"):
        function.handler({"id": "person1", "body": "{"}, Context())
    with pytest.raises(ContractError):
        function.handler({"id": 7}, Context())


def test_a_malformed_record_fails_alone(world: World) -> None:
    """A record of the wrong shape is named; one that cannot be named fails the batch."""
    assert world.failed({"record_id": "bad", "id": 7}, delivered(1)) == ["bad"]
    assert len(world.lines()) == 1
    with pytest.raises(ContractError, match="record_id"):
        world.invoke({"id": "k"})
    with pytest.raises(ContractError, match="deadline_ms"):
        function.handler({"records": [delivered(1)], "deadline_ms": "soon"}, Context())


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"ARCHIVE_BUCKET": ""}, "ARCHIVE_BUCKET is not set"),
        ({"ARCHIVE_BUCKET": "s3://history"}, "ARN of an access point"),
        ({"ARCHIVE_PREFIX": "/carts"}, "none before"),
        ({"ARCHIVE_PREFIX": "a//b"}, "one / between"),
        ({"ARCHIVE_PREFIX": "p" * 801}, "800 bytes"),
        ({"ARCHIVE_PARTITION": "minute"}, "hour, day"),
        ({"ARCHIVE_ATTEMPTS_MAX": "0"}, "from 1 to 100"),
        ({"ARCHIVE_READ_TIMEOUT_MS": "2s"}, "whole number"),
        ({"ARCHIVE_BACKOFF_MS_MIN": "500", "ARCHIVE_BACKOFF_MS_MAX": "100"}, "larger"),
    ],
)
def test_wrong_settings_name_the_variable_and_what_is_allowed(environ: dict[str, str], words: str) -> None:
    """A wrong variable is one clear error."""
    with pytest.raises(SetupError, match=words):
        read_settings({"ARCHIVE_BUCKET": "history", **environ})


@pytest.mark.parametrize(("text", "prefix"), [("", ""), ("carts", "carts/"), ("a/b/", "a/b/")])
def test_a_prefix_is_a_folder(text: str, prefix: str) -> None:
    """A prefix ends in one slash, whether the user wrote it or not."""
    assert read_settings({"ARCHIVE_BUCKET": "history", "ARCHIVE_PREFIX": text}).prefix == prefix


def test_settings_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables choose the client's timeouts; the client itself sends nothing twice."""
    made: list[Any] = []
    monkeypatch.setattr("boto3.Session.client", lambda _, service, config: made.append(config))
    monkeypatch.setattr(function, "refuse_half_answers", lambda client: client)
    settings = read_settings({"ARCHIVE_BUCKET": "history", "ARCHIVE_READ_TIMEOUT_MS": "1500"})
    monkeypatch.setattr(function, "_settings", lambda: settings)
    function._writer.__wrapped__()
    (config,) = made
    assert (config.connect_timeout, config.read_timeout) == (1.0, 1.5)
    assert config.retries == {"total_max_attempts": 1}


SIGNATURE_CODES = ["ExpiredToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidToken"]


@pytest.mark.parametrize("code", SIGNATURE_CODES)
def test_a_signature_is_made_anew(make_world: Callable[..., World], code: str) -> None:
    """A refused signature has the object put again, by a client with the credentials of then."""
    world = make_world()
    world.faults = [answering(code, 403)]
    assert world.invoke(delivered(1)) == ANSWERED
    assert (world.connected, len(world.lines())) == (2, 1)


@pytest.mark.parametrize("code", SIGNATURE_CODES)
def test_no_signature_is_taken(make_world: Callable[..., World], code: str) -> None:
    """The invocation ends with an error that counts against no record; the check before the start passes."""
    world = make_world(attempts_max=3)
    world.faults = [answering(code, 403)] * 4
    world.invoke()
    with pytest.raises(DestinationUnavailable, match=code):
        world.invoke(delivered(1), delivered(2))
    assert len(world.requests) == 4
