from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import orjson
import pytest
from moto import mock_aws

from engine.delivery.failures.dead_letter import DeadLetter
from engine.delivery.failures.places import failure_sink
from engine.redrive import run, s3_source, sqs_source
from engine.redrive.run import redrive
from tests.redrive_rig import AT_MS, FakeEngine, letter, line, settings_of

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:failed"
BUCKET = "arn:aws:s3:::failed-carts"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(run, "Publisher", lambda settings: fake)
    return fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "letters.jsonl"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setattr(sqs_source, "_WAIT_S", 0)
    with mock_aws():
        yield


# Queues.


@pytest.fixture
def queue(aws: None) -> Any:
    sqs = boto3.resource("sqs", region_name="eu-west-1")
    return sqs.create_queue(QueueName="failed")


def bury(file: Path, arn: str, letters: Sequence[DeadLetter]) -> None:
    settings = settings_of(file, carts=arn)
    assert failure_sink(settings.routes[0], settings.delivery, settings.aws).write(letters) == ""


def left_in(queue: Any) -> list[str]:
    found = []
    while received := queue.receive_messages(MaxNumberOfMessages=10, WaitTimeSeconds=0):
        found += [message.body for message in received]
    return [orjson.loads(body)["id"] if body.startswith("{") else body for body in found]


def test_a_queue_is_emptied(engine: FakeEngine, queue: Any, file: Path) -> None:
    """All letters of the route's queue are sent, and deleted; the file's too."""
    bury(file, QUEUE, [letter(f"k{number}") for number in range(33)])
    file.write_bytes(line("from the file"))
    summary = redrive(settings_of(file, carts=QUEUE))
    assert sorted(engine.keys) == sorted([b"from the file", *(b"k%d" % number for number in range(33))])
    assert (summary.sent, summary.exit_code) == (34, 0)
    assert [tally.source for tally in summary.sources] == [str(file), QUEUE]
    assert left_in(queue) == []


def test_a_queue_without_an_engine_keeps_all(engine: FakeEngine, queue: Any, file: Path) -> None:
    """Nobody listens: every message is there, and visible again at once."""
    bury(file, QUEUE, [letter(f"k{number}") for number in range(12)])
    engine.is_deaf_to = lambda key: True
    assert redrive(settings_of(file, carts=QUEUE)).exit_code == 1
    assert sorted(left_in(queue)) == sorted(f"k{number}" for number in range(12))


def test_a_queue_keeps_what_was_not_asked_for(engine: FakeEngine, queue: Any, file: Path) -> None:
    """Letters of other routes, more than the most, and what is no letter, stay in the queue."""
    bury(file, QUEUE, [letter("a"), letter("x", "others"), letter("b")])
    queue.send_message(MessageBody="no letter")
    settings = settings_of(file, carts=QUEUE, others=QUEUE)
    summary = redrive(settings, route="carts")
    assert sorted(engine.keys) == [b"a", b"b"]
    assert summary.sources[1].malformed == 1
    assert sorted(left_in(queue)) == ["no letter", "x"]


def test_a_letter_that_fails_again_meanwhile_is_not_taken_again(
    engine: FakeEngine, queue: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redrive of a broken function ends: letters that were sent to the queue after its beginning wait."""
    monkeypatch.setattr(sqs_source, "service_ms", lambda answer: AT_MS)
    real = botocore.client.BaseClient._make_api_call
    sent_ms = {"k0": AT_MS - 5, "k1": AT_MS + 5}

    def dated(self: Any, operation: str, arguments: Any) -> Any:
        answer = real(self, operation, arguments)
        for message in answer.get("Messages", []) if operation == "ReceiveMessage" else []:
            sent = str(sent_ms[orjson.loads(message["Body"])["id"]])
            message.setdefault("Attributes", {})["SentTimestamp"] = sent
        return answer

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", dated)
    bury(file, QUEUE, [letter("k0"), letter("k1")])
    assert redrive(settings_of(file, carts=QUEUE)).exit_code == 0
    assert engine.keys == [b"k0"]
    assert left_in(queue) == ["k1"]


def test_a_missing_queue_does_not_keep_the_others(engine: FakeEngine, aws: None, file: Path) -> None:
    """A source that can't be read is told with the remedy, and the next one is read."""
    file.write_bytes(line("a"))
    summary = redrive(settings_of(file, carts=QUEUE, others=BUCKET))
    assert engine.keys == [b"a"]
    assert "create the queue" in summary.sources[1].problems[0]
    assert "create the bucket" in summary.sources[2].problems[0]
    assert summary.exit_code == 1


# Buckets.


@pytest.fixture
def bucket(aws: None) -> Any:
    s3 = boto3.resource("s3", region_name="eu-west-1")
    where = {"LocationConstraint": "eu-west-1"}
    return s3.create_bucket(Bucket="failed-carts", CreateBucketConfiguration=where)


def test_a_bucket_is_emptied(engine: FakeEngine, bucket: Any, file: Path) -> None:
    """All objects of the route are read and deleted; what others keep in the bucket is not touched."""
    arn = f"{BUCKET}/lost"
    bury(file, arn, [letter(f"k{number}") for number in range(600)])
    bury(file, arn, [letter("last")])
    for key in ("lost/readme.jsonl", "lost/carts/readme.jsonl", "others/2025/11/23/09/x.jsonl"):
        bucket.put_object(Key=key, Body=b"not ours\n")
    summary = redrive(settings_of(file, carts=arn))
    assert len(engine.keys) == summary.sent == 601
    assert summary.exit_code == 0
    left = {one.key for one in bucket.objects.all()}
    assert left == {"lost/readme.jsonl", "lost/carts/readme.jsonl", "others/2025/11/23/09/x.jsonl"}


def test_a_bucket_keeps_the_rest_of_an_object(engine: FakeEngine, bucket: Any, file: Path) -> None:
    """An object of which some letters were sent holds the others."""
    bury(file, BUCKET, [letter(f"k{number}") for number in range(5)])
    (before,) = bucket.objects.all()
    assert redrive(settings_of(file, carts=BUCKET), count_max=3).sent == 3
    (after,) = bucket.objects.all()
    assert after.key == before.key
    assert [orjson.loads(one)["id"] for one in after.get()["Body"].read().splitlines()] == ["k3", "k4"]


def test_a_bucket_without_an_engine_keeps_all(engine: FakeEngine, bucket: Any, file: Path) -> None:
    """Nobody listens: the object is as it was."""
    bury(file, BUCKET, [letter("a")])
    (before,) = bucket.objects.all()
    engine.is_deaf_to = lambda key: True
    assert redrive(settings_of(file, carts=BUCKET)).exit_code == 1
    (after,) = bucket.objects.all()
    assert (after.key, after.last_modified) == (before.key, before.last_modified)


def test_objects_that_come_meanwhile_stay(
    engine: FakeEngine, bucket: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redrive of a broken function ends: objects that were put after its beginning wait."""
    monkeypatch.setattr(s3_source, "service_ms", lambda answer: AT_MS)
    bury(file, BUCKET, [letter("a")])
    assert redrive(settings_of(file, carts=BUCKET)).exit_code == 0
    assert engine.keys == []
    assert len(list(bucket.objects.all())) == 1


def test_a_named_bucket_is_read_for_all_routes(engine: FakeEngine, bucket: Any, file: Path) -> None:
    """--from takes letters of every route that is known there, and --route narrows it."""
    bury(file, BUCKET, [letter("a")])
    bury(file, BUCKET, [letter("x", "others")])
    settings = settings_of(file, carts="", others="")
    assert redrive(settings, source=BUCKET, route="others").sent == 1
    assert redrive(settings, source=BUCKET).sent == 1
    assert engine.keys == [b"x", b"a"]
