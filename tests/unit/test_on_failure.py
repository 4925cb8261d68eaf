from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import msgspec
import orjson
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from moto import mock_aws

from engine.aws.failure_arns import FailureArn, parse_failure_arn
from engine.aws.target_arns import QUEUE_MESSAGE_BYTES_MAX
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.calls import calls_of
from engine.delivery.failures.aws import failure_text
from engine.delivery.failures.dead_letter import DeadLetter, FileSink
from engine.delivery.failures.places import FailureSink, check_on_failure, failure_sink
from engine.delivery.failures.s3 import S3Sink, object_name, route_folder
from engine.delivery.failures.sqs import SqsSink, message_of
from engine.settings.route_checks import check_options

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:failed"
BUCKET = "arn:aws:s3:::failed-carts"
AT_MS = 1_763_890_010_123
AWS = AwsSettings(region="eu-west-1")


def letter(key: str = "cart:1", body: str | None = "{}", at_ms: int = AT_MS, event: str = "hset") -> DeadLetter:
    record = msgspec.Raw(orjson.dumps({"record_id": "0", "id": key, "body": body, "version": 7}))
    return DeadLetter(at_ms, "carts", "f", key, event, 1_000, 3, "it broke", failure="timeout", record=record)


def place_of(arn: str) -> FailureArn:
    place = parse_failure_arn(arn)
    assert place is not None
    return place


@pytest.fixture
def delivery(tmp_path: Path) -> DeliverySettings:
    return DeliverySettings(dead_letter_file=str(tmp_path / "letters.jsonl"))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    with mock_aws():
        yield


@pytest.fixture
def queue(aws: None) -> Any:
    sqs = boto3.resource("sqs", region_name="eu-west-1")
    return sqs.create_queue(QueueName="failed")


@pytest.fixture
def bucket(aws: None) -> Any:
    s3 = boto3.resource("s3", region_name="eu-west-1")
    return s3.create_bucket(Bucket="failed-carts", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})


def sink_for(arn: str, delivery: DeliverySettings) -> FailureSink:
    return failure_sink(RouteSettings(name="carts", function="f", on_failure=arn), delivery, AWS)


def messages_in(queue: Any) -> list[dict[str, Any]]:
    found = []
    while received := queue.receive_messages(MaxNumberOfMessages=10, WaitTimeSeconds=0):
        for message in received:
            found.append(orjson.loads(message.body))
            message.delete()
    return found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", ""),
        (QUEUE, ""),
        ("arn:aws-cn:sqs:cn-north-1:123456789012:f", ""),
        ("arn:aws-us-gov:s3:::failed", ""),
        (BUCKET, ""),
        (f"{BUCKET}/some/where", ""),
        ("failed", "not a valid place"),
        (f"{QUEUE}.fifo", "FIFO"),
        ("arn:aws:sns:eu-west-1:123456789012:failed", "SNS"),
        ("arn:aws:sqs:eu-west-1:1234:failed", "not a valid place"),
        ("arn:aws:s3:::NotABucket", "not a valid place"),
        (f"{BUCKET}/{'p' * 300}", "not a valid place"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/failed", "not a valid place"),
    ],
)
def test_what_on_failure_may_say(value: str, words: str) -> None:
    """Empty, a standard queue's ARN or a bucket's ARN; all else is told with what would do."""
    finding = check_on_failure(value)
    route = RouteSettings(name="carts", function="f", on_failure=value)
    options = [option for option, _, _ in check_options(route)]
    if words:
        assert finding is not None
        assert words in finding[0]
        assert finding[1]
        assert options == ["on_failure"]
    else:
        assert finding is None
        assert not options


def test_each_destination_has_its_sink(delivery: DeliverySettings) -> None:
    """The option chooses the sink, and making one connects to nothing, and opens nothing."""
    assert isinstance(sink_for("", delivery), FileSink)
    assert isinstance(sink_for(QUEUE, delivery), SqsSink)
    assert isinstance(sink_for(BUCKET, delivery), S3Sink)
    assert not Path(delivery.dead_letter_file).exists()


def test_a_queue_gets_each_letter_as_a_message(queue: Any, delivery: DeliverySettings) -> None:
    """More letters than a call takes all arrive, each a JSON object with the record as it was sent."""
    letters = [letter(f"cart:{number}") for number in range(23)]
    assert sink_for(QUEUE, delivery).write(letters) == ""
    found = {message["id"]: message for message in messages_in(queue)}
    assert set(found) == {one.id for one in letters}
    assert found["cart:7"]["record"] == {"record_id": "0", "id": "cart:7", "body": "{}", "version": 7}
    assert found["cart:7"]["failure"] == "timeout"
    assert "truncated" not in found["cart:7"]


def test_a_message_holds_any_key(queue: Any, delivery: DeliverySettings) -> None:
    """Characters that SQS refuses in a message arrive as they are, by JSON's escapes."""
    key = "cart:\ufffe\uffff\x01\U0001f6d2"
    assert sink_for(QUEUE, delivery).write([letter(key)]) == ""
    assert not {"\ufffe", "\uffff", "\x01"} & set(message_of(letter(key)) or "")
    assert [message["id"] for message in messages_in(queue)] == [key]


def test_a_letter_too_large_for_a_message_loses_its_body(queue: Any, delivery: DeliverySettings) -> None:
    """It says so, and keeps all else: the value is read anew when it is sent again."""
    assert sink_for(QUEUE, delivery).write([letter("large", "x" * QUEUE_MESSAGE_BYTES_MAX), letter("small")]) == ""
    found = {message["id"]: message for message in messages_in(queue)}
    assert found["large"]["truncated"] is True
    assert found["large"]["record"] == {"record_id": "0", "id": "large", "version": 7}
    assert "truncated" not in found["small"]


def test_a_long_key_costs_the_whole_record() -> None:
    """A key that fits once, and not twice, leaves the letter without its record."""
    text = message_of(letter("k" * (QUEUE_MESSAGE_BYTES_MAX * 2 // 3), None))
    assert text is not None
    found = orjson.loads(text)
    assert found["truncated"] is True
    assert "record" not in found


def test_a_key_too_large_for_any_message_goes_to_the_file(queue: Any, delivery: DeliverySettings) -> None:
    """Nothing is lost, and nothing is held up, by a key that no queue can hold."""
    long = "k" * QUEUE_MESSAGE_BYTES_MAX
    assert sink_for(QUEUE, delivery).write([letter(long), letter("small")]) == ""
    assert [message["id"] for message in messages_in(queue)] == ["small"]
    (line,) = Path(delivery.dead_letter_file).read_bytes().splitlines()
    assert orjson.loads(line)["id"] == long
    assert "record" in orjson.loads(line)


def test_calls_keep_both_limits() -> None:
    """No call holds more than ten messages, or more bytes than a queue takes; nothing is left out or reordered."""
    messages = [str(index) + "x" * size for index, size in enumerate([10, 200_000, 60_000, 60_000, *[5] * 25])]
    calls = list(calls_of(messages, len, 10, QUEUE_MESSAGE_BYTES_MAX))
    assert [message for call in calls for message in call] == messages
    assert all(len(call) <= 10 and sum(map(len, call)) <= QUEUE_MESSAGE_BYTES_MAX for call in calls)
    assert [len(call) for call in calls] == [3, 10, 10, 6]


def test_a_partly_failed_call_is_a_failure(
    queue: Any, delivery: DeliverySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP 200 with failed messages is no success."""
    real = botocore.client.BaseClient._make_api_call

    def some_fail(self: Any, operation: str, arguments: Any) -> Any:
        answer = real(self, operation, arguments)
        if operation == "SendMessageBatch":
            failed = answer["Successful"].pop()
            entry = {"Id": failed["Id"], "Code": "InternalError", "Message": "try again", "SenderFault": False}
            answer["Failed"] = [entry]
        return answer

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", some_fail)
    problem = sink_for(QUEUE, delivery).write([letter("a"), letter("b")])
    assert "1 of 2 messages" in problem
    assert "InternalError: try again" in problem


def test_half_an_answer_is_a_failure(queue: Any, delivery: DeliverySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that broke off has no failed messages, and none that succeeded."""
    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", lambda *_: {"ResponseMetadata": {}})
    assert "cut off" in sink_for(QUEUE, delivery).write([letter("a")])


def test_a_bucket_gets_an_object_a_write(bucket: Any, delivery: DeliverySettings) -> None:
    """One JSON object a line, under prefix, route, and hour in UTC; two writes never share a name."""
    sink = sink_for(f"{BUCKET}/lost/", delivery)
    assert sink.write([letter("a"), letter("b")]) == ""
    assert sink.write([letter("c")]) == ""
    assert sink.write([]) == ""
    objects = sorted(bucket.objects.all(), key=lambda one: -one.size)
    assert len(objects) == 2
    assert all(one.key.startswith("lost/carts/2025/11/23/09/2025-11-23T09.26.50-") for one in objects)
    assert all(one.key.endswith(".jsonl") for one in objects)
    lines = objects[0].get()["Body"].read().splitlines()
    assert [orjson.loads(line)["id"] for line in lines] == ["a", "b"]


def test_names_of_objects_are_safe() -> None:
    """A route's name is one folder, whatever it is, and two routes never share one; S3 takes the whole name."""
    place = place_of(BUCKET)
    assert route_folder(place, "a/b") == "a%2Fb/"
    assert route_folder(place, "..") == "%2E%2E/"
    folders = {route_folder(place, "é" * 200 + end) for end in "ab"}
    assert len(folders) == 2
    longest = object_name(place_of(f"{BUCKET}/{'p' * 256}"), "é" * 255, AT_MS, "u" * 32)
    assert len(longest.encode()) <= 1_024


@pytest.mark.parametrize(("arn", "name"), [(QUEUE, "the queue"), (BUCKET, "the bucket")])
def test_a_place_that_is_not_there_is_told(aws: None, delivery: DeliverySettings, arn: str, name: str) -> None:
    """No queue, no bucket: a line that names it and the remedy, and no secret."""
    problem = sink_for(arn, delivery).write([letter()])
    assert problem.startswith(f"{arn}: cannot ")
    assert f"create {name}" in problem
    assert "hush" not in problem
    assert "\n" not in problem


@pytest.mark.parametrize("arn", [QUEUE, BUCKET])
def test_an_endpoint_that_does_not_answer_is_told(
    delivery: DeliverySettings, monkeypatch: pytest.MonkeyPatch, arn: str
) -> None:
    """A refused connection comes back as text, and the same sink works once the way is free."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hush-hush@127.0.0.1:1")
    problem = sink_for(arn, delivery).write([letter()])
    assert "firewall" in problem
    assert "hush" not in problem


def test_missing_rights_and_credentials_are_told() -> None:
    """Each failure names the right that lacks, or where credentials come from."""
    place = place_of(QUEUE)

    def refused(code: str, message: str = "") -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": message}}, "SendMessageBatch")

    def text(error: Exception) -> str:
        return failure_text(place, "send", error, "sqs:SendMessage")

    assert "grant sqs:SendMessage" in text(refused("AccessDenied"))
    assert "grant sqs:SendMessage" in text(refused("AWS.SimpleQueueService.AccessDeniedException"))
    assert "kms:GenerateDataKey" in text(refused("AccessDenied", "no identity-based policy allows kms:Decrypt"))
    assert "create the queue" in text(refused("AWS.SimpleQueueService.NonExistentQueue"))
    assert "expired" in text(refused("ExpiredTokenException"))
    assert "AWS_ACCESS_KEY_ID" in text(NoCredentialsError())
