"""Readings of a running engine, one after the other, to where they are wanted."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any

from engine.clock import now_ms
from engine.config import AwsSettings
from engine.errors import EngineError
from engine.observe.metrics import Reading, emf_line, metric_data, read

Sink = Callable[[Reading], None]
ReadStatus = Callable[[], Mapping[str, Any]]

_TIMEOUT_S = 5
_RIGHT = "cloudwatch:PutMetricData"


def to_lines(namespace: str, engine: str, write: Callable[[str], None]) -> Sink:
    """Return the sink that writes lines of embedded metric format."""
    return lambda reading: write(emf_line(reading, namespace, engine))


def to_cloudwatch(namespace: str, engine: str, aws: AwsSettings) -> Sink:
    """Return the sink that calls ``PutMetricData``; it raises `EngineError` if that fails."""
    from botocore.config import Config
    from botocore.exceptions import ClientError

    from engine.aws.credentials import aws_session
    from engine.aws.wire import EXPECTED, hint_of

    try:
        config = Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"total_max_attempts": 2})
        client = aws_session().client("cloudwatch", region_name=aws.region or None, config=config)
    except EXPECTED as error:
        hint = hint_of(error, "AWS_REGION") or "set AWS_REGION"
        raise EngineError(f"cannot create a client of CloudWatch: {error}", hint=hint) from error

    def put(reading: Reading) -> None:
        moment = datetime.datetime.fromtimestamp(reading.at_ms / 1_000, datetime.UTC)
        data = [{**one, "Timestamp": moment} for one in metric_data(reading, engine)]
        try:
            client.put_metric_data(Namespace=namespace, MetricData=data)
        except (ClientError, *EXPECTED) as error:
            hint = hint_of(error, "AWS_REGION") or f"grant {_RIGHT} to this role or user"
            raise EngineError(f"metrics could not be sent: {error}", hint=hint) from error

    return put


def report_once(read_status: ReadStatus, sink: Sink) -> None:
    """Tell one reading; raise `EngineError` if no engine runs."""
    sink(read(read_status(), None, now_ms()))


def report_every(
    interval_s: float,
    read_status: ReadStatus,
    sink: Sink,
    complain: Callable[[EngineError], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Tell a reading every ``interval_s`` until interrupted, also that no engine runs; what fails is told once."""
    before: Mapping[str, Any] | None = None
    told = ""
    due_s = time.monotonic()
    while True:
        problem: EngineError | None = None
        status: Mapping[str, Any] | None = None
        try:
            status = read_status()
        except EngineError as error:
            problem = error
        try:
            sink(read(status, before, now_ms()))
            # What was not sent is in the next reading.
            before = status or before
        except EngineError as error:
            problem = error
        if problem is not None and str(problem) != told:
            complain(problem)
        told = str(problem) if problem else ""
        due_s = max(due_s + interval_s, time.monotonic())
        sleep(max(0.0, due_s - time.monotonic()))
