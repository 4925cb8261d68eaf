"""Streams and queues as targets: the engine's whole path into moto's Kinesis and SQS, and what their answers mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from engine.aws.target_arns import parse_target_arn
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.targets.batches import BatchTarget, Part
from engine.delivery.targets.kinesis import KinesisTarget, partition_key
from engine.delivery.targets.make import make_target
from engine.delivery.targets.sqs import SqsTarget, group_of, identity_of, message_of
from engine.model import Failure, Outcome
from engine.settings.route_checks import check_options
from tests.moto_process import moto_server
from tests.support import PathUnderTest, wait_for, whole_path

ACCOUNT = "123456789012"
REGION = "us-east-1"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/carts"
FIFO = f"arn:aws:sqs:{REGION}:{ACCOUNT}:carts.fifo"
STANDARD = f"arn:aws:sqs:{REGION}:{ACCOUNT}:carts"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        client("kinesis", url).create_stream(StreamName="carts", ShardCount=2)
        queues = client("sqs", url)
        queues.create_queue(QueueName="carts.fifo", Attributes={"FifoQueue": "true"})
        queues.create_queue(QueueName="carts")
        yield url


def client(service: str, endpoint: str) -> Any:
    return boto3.client(
        service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )


def run(folder: Path, endpoint: str, arn: str, expected: int, **config: str) -> PathUnderTest:
    """Have an engine deliver fifty carts, changed twice each, to a place; return what it left behind."""
    environment = {"AWS_ENDPOINT_URL_KINESIS": endpoint, "AWS_ENDPOINT_URL_SQS": endpoint, **ENVIRONMENT}
    with whole_path(folder, environment=environment) as path:
        path.write_config(
            f'[[routes]]\nname = "carts"\nfunction = "{arn}"\nkeys = ["cart:*"]\nevents = ["hset", "del"]\n'
        )
        path.start()
        for number in range(50):
            path.client.hset(f"cart:{number}", "tea", number)
        wait_for(lambda: path.totals()["records_delivered"] >= 50, "fifty carts")
        for number in range(50):
            path.client.hset(f"cart:{number}", "tea", number + 100)
        path.client.delete("cart:0")
        wait_for(lambda: is_settled(path.totals(), expected), "fifty carts again")
        assert path.stop() == 0
    return path


def is_settled(totals: dict[str, int], expected: int) -> bool:
    """Tell whether all is delivered: a drain would leave what waits for a lost call's fence to the next start."""
    left = totals["keys_waiting"] + totals["keys_in_flight"] + totals["keys_backlog"]
    return totals["records_delivered"] >= expected and not left


def last_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each key's last value, and see that none came after a newer one."""
    held: dict[str, dict[str, Any]] = {}
    for record in records:
        known = held.get(record["id"])
        assert known is None or known["version"] <= record["version"]
        held[record["id"]] = record
    return {key: record["body"] and json.loads(record["body"]) for key, record in held.items()}


EXPECTED = {"cart:0": None, **{f"cart:{number}": {"tea": str(number + 100)} for number in range(1, 50)}}


def test_a_stream_has_every_key_in_its_order(tmp_path: Path, endpoint: str) -> None:
    """Each key's records lie in one shard, in order, the last one last; a delete is a record too."""
    run(tmp_path, endpoint, STREAM, 100)
    kinesis = client("kinesis", endpoint)
    shard_of: dict[str, set[str]] = {}
    found: list[dict[str, Any]] = []
    for shard in kinesis.list_shards(StreamName="carts")["Shards"]:
        name = shard["ShardId"]
        place = kinesis.get_shard_iterator(StreamName="carts", ShardId=name, ShardIteratorType="TRIM_HORIZON")
        for one in kinesis.get_records(ShardIterator=place["ShardIterator"], Limit=10_000)["Records"]:
            record = orjson.loads(one["Data"])
            assert one["PartitionKey"] == record["id"]
            shard_of.setdefault(record["id"], set()).add(name)
            found.append(record)
    assert last_of(found) == EXPECTED
    assert {len(names) for names in shard_of.values()} == {1}


@pytest.mark.parametrize("arn", [FIFO, STANDARD])
def test_a_queue_has_every_key(tmp_path: Path, endpoint: str, arn: str) -> None:
    """In a FIFO queue each key is a group with an order; in another one `version` tells it."""
    run(tmp_path, endpoint, arn, 100)
    sqs = client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]
    found: list[dict[str, Any]] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["MessageGroupId"]).get(
        "Messages"
    ):
        for message in messages:
            record = orjson.loads(message["Body"])
            if arn == FIFO:
                assert message["Attributes"]["MessageGroupId"] == record["id"]
            found.append(record)
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert last_of(found if arn == FIFO else sorted(found, key=lambda record: record["version"])) == EXPECTED


def test_a_fifo_queue_has_every_event_of_a_transaction(tmp_path: Path, endpoint: str) -> None:
    """Six pushes of one MULTI are six messages: equal in version, time and name, and not one for the queue."""
    client("sqs", endpoint).create_queue(QueueName="pushes.fifo", Attributes={"FifoQueue": "true"})
    arn = FIFO.replace("carts", "pushes")
    with whole_path(tmp_path, environment={"AWS_ENDPOINT_URL_SQS": endpoint, **ENVIRONMENT}) as path:
        path.write_config(f'[[routes]]\nname = "all"\nfunction = "{arn}"\nevents = ["rpush"]\ncoalesce = false\n')
        path.start()
        pipe = path.client.pipeline(transaction=True)
        for number in range(6):
            pipe.rpush("list", number)
        pipe.execute()
        wait_for(lambda: path.totals()["keys_in_flight"] == 0 < path.totals()["records_delivered"], "the pushes")
        assert path.stop() == 0
    sqs = client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName="pushes.fifo")["QueueUrl"]
    counted = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    assert counted["Attributes"]["ApproximateNumberOfMessages"] == "6"


@pytest.mark.parametrize("arn", [STREAM, FIFO])
def test_a_place_that_is_not_there_is_told_before_the_start(tmp_path: Path, endpoint: str, arn: str) -> None:
    """The engine does not start, and says which place it misses."""
    environment = {"AWS_ENDPOINT_URL_KINESIS": endpoint, "AWS_ENDPOINT_URL_SQS": endpoint, **ENVIRONMENT}
    missing = arn.replace("carts", "baskets")
    with whole_path(tmp_path, environment=environment) as path:
        path.write_config(f'[[routes]]\nname = "carts"\nfunction = "{missing}"\n')
        path.launch()
        wait_for(path.is_over, "the refusal")
        assert missing in path.log()
        assert "check the ARN" in path.log()
        assert "Traceback" not in path.log()


# What answers mean, by clients that answer what a test says.


class Client:
    """Answers the calls in their order: with an answer, or by raising."""

    class meta:
        endpoint_url = "http://sqs"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, Any]] = []

    def put_records(self, **request: Any) -> Any:
        return self._next(request)

    def send_message_batch(self, **request: Any) -> Any:
        return self._next(request)

    def _next(self, request: dict[str, Any]) -> Any:
        self.calls.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def target(arn: str, *answers: Any) -> tuple[BatchTarget, Client]:
    made = make_target(RouteSettings("r", arn), AwsSettings(), DeliverySettings())
    assert isinstance(made, BatchTarget)
    made._client = Client(*answers)
    return made, made._client


def payload(*keys: str, body: str = "{}") -> bytes:
    records = [
        {"record_id": str(number), "id": key, "body": body, "version": 7, "event": "hset", "captured_at_ms": 1}
        for number, key in enumerate(keys)
    ]
    return orjson.dumps({"records": records, "deadline_ms": 1})


def put(*codes: str) -> dict[str, Any]:
    return {
        "Records": [{"ErrorCode": code, "ErrorMessage": "m"} if code else {"SequenceNumber": "1"} for code in codes]
    }


@pytest.mark.parametrize(
    ("codes", "failure", "ids"),
    [
        (("", ""), Failure.NONE, ()),
        (("ProvisionedThroughputExceededException", ""), Failure.THROTTLED, ("0",)),
        (("", "InternalFailure"), Failure.SERVICE, ("1",)),
        (("KMSThrottlingException", "InternalFailure"), Failure.SERVICE, ("0", "1")),
    ],
)
def test_only_what_a_stream_refused_comes_again(codes: tuple[str, ...], failure: Failure, ids: tuple[str, ...]) -> None:
    """A refusal concerns its record alone, and a throttle is no attempt of it."""
    made, _ = target(STREAM, put(*codes))
    outcome = made.invoke(payload("a", "b"))
    assert (outcome.failure, outcome.failed_ids) == (failure, ids)


def test_only_what_a_queue_refused_comes_again() -> None:
    """A message that the sender got wrong counts against it; others are the queue's own trouble."""
    wrong = {"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "m"}
    made, _ = target(FIFO, {"Successful": [{"Id": "0"}], "Failed": [wrong]})
    outcome = made.invoke(payload("a", "b"))
    assert (outcome.failure, outcome.failed_ids) == (Failure.ITEMS, ("1",))
    busy = {"Id": "0", "SenderFault": False, "Code": "InternalError", "Message": "m"}
    made, _ = target(FIFO, {"Successful": [{"Id": "1"}], "Failed": [busy]})
    outcome = made.invoke(payload("a", "b"))
    assert (outcome.failure, outcome.failed_ids) == (Failure.SERVICE, ("0",))


@pytest.mark.parametrize(("arn", "half"), [(STREAM, {}), (STREAM, put("")), (FIFO, {}), (FIFO, {"Successful": []})])
def test_half_an_answer_is_no_answer(arn: str, half: dict[str, Any]) -> None:
    """An answer that does not name every record settles none, and the call may have taken effect."""
    made, _ = target(arn, half)
    outcome = made.invoke(payload("a", "b"))
    assert outcome.failure is Failure.CONNECTION
    assert outcome.is_lost
    assert outcome.failed_ids == ("0", "1")


def test_what_was_taken_before_a_call_failed_is_not_sent_again() -> None:
    """Of 25 messages the first call's ten are settled; the rest comes again, and may have come already."""
    from botocore.exceptions import ReadTimeoutError

    whole = {"Successful": [{"Id": str(number)} for number in range(10)]}
    made, seen = target(FIFO, whole, ReadTimeoutError(endpoint_url="http://sqs"))
    outcome = made.invoke(payload(*(f"key:{number}" for number in range(25))))
    assert len(seen.calls) == 2
    assert outcome.failure is Failure.CONNECTION
    assert outcome.failed_ids == tuple(str(number) for number in range(10, 25))
    assert outcome.is_lost


def test_what_no_call_takes_is_given_up_alone() -> None:
    """A record past the limit of a message is told apart from its neighbours, which are sent."""
    records = [
        {"record_id": "0", "id": "a", "body": "x" * 300_000, "version": 1},
        {"record_id": "1", "id": "b", "body": "{}", "version": 1},
    ]
    made, seen = target(STANDARD, {"Successful": [{"Id": "0"}]})
    outcome = made.invoke(orjson.dumps({"records": records}))
    assert (outcome.failure, outcome.failed_ids) == (Failure.OVERSIZE, ("0",))
    assert [orjson.loads(entry["MessageBody"])["id"] for entry in seen.calls[0]["Entries"]] == ["b"]


def test_calls_stay_within_the_services_limits() -> None:
    """No call has more records or bytes than the service takes, and every record is in one."""
    made, seen = target(STREAM, *([put(*[""] * 500)] * 3))
    assert made.invoke(payload(*(f"key:{number}" for number in range(1_500)))) == Outcome()
    assert [len(call["Records"]) for call in seen.calls] == [500, 500, 500]
    made, seen = target(STREAM, put(*[""] * 7), put(*[""] * 3))
    assert made.invoke(payload(*"abcdefghij", body="x" * 700_000)) == Outcome()
    assert all(sum(len(one["Data"]) for one in call["Records"]) <= KinesisTarget.call_bytes_max for call in seen.calls)


def test_keys_of_any_kind_have_a_place_and_a_name() -> None:
    """Long, empty and strange keys are named by their digest; the same value twice is one message to a FIFO queue."""
    assert partition_key("cart:1") == group_of("cart:1") == "cart:1"
    for key in ("", "k" * 300, "käse"):
        assert len(group_of(key)) == 64
    assert len(partition_key("")) == len(partition_key("k" * 300)) == 64
    one = Part("0", "a", "7-1-hset", b"{}")
    assert identity_of(one) == identity_of(Part("5", "a", "7-1-hset", b"{}"))
    assert identity_of(one) != identity_of(Part("0", "a", "8-1-hset", b"{}"))
    assert message_of(Part("0", "a", "", '"\uffff"'.encode())) == '"\\uffff"'


def test_arns_are_told_apart() -> None:
    """A stream and a queue are named by ARN alone; what else a route says must fit."""
    assert [parse_target_arn(arn) is not None for arn in (STREAM, FIFO, STANDARD, "dynamodb")] == [
        True,
        True,
        True,
        False,
    ]
    assert isinstance(target(STREAM)[0], KinesisTarget)
    assert isinstance(target(STANDARD)[0], SqsTarget)
    assert list(check_options(RouteSettings("r", STREAM))) == []
    assert [option for option, *_ in check_options(RouteSettings("r", FIFO, payload="original"))] == ["payload"]
    assert [option for option, *_ in check_options(RouteSettings("r", STREAM[:-6]))] == ["function"]
