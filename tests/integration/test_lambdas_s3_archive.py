"""Hashes that change in a running server, as lines in a bucket: the engine, the function, and moto's S3."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from tests.moto_process import moto_server
from tests.support import PathUnderTest, wait_for, whole_path

BUCKET = "histories"
ROUTE = """
[[routes]]
name = "history"
function = "archive"
keys = ["cart:*"]
events = ["hset", "del"]
coalesce = false
maximum_batching_window_in_seconds = 0.2
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def s3(endpoint: str) -> Any:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket=BUCKET)
    return client


def archive(endpoint: str, bucket: str = BUCKET) -> tuple[FunctionSpec, ...]:
    environment = {"ARCHIVE_BUCKET": bucket, "ARCHIVE_PREFIX": "carts", "AWS_ENDPOINT_URL_S3": endpoint}
    return (FunctionSpec("archive", "lambdas.s3_archive.handler:handler", environment=environment),)


def lines_in(s3: Any) -> list[dict[str, Any]]:
    """Return all lines of the bucket, in the order of versions, then of times."""
    found: list[dict[str, Any]] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="carts/date="):
        for one in page.get("Contents", ()):
            assert re.fullmatch(r"carts/date=\d{4}-\d\d-\d\d/hour=\d\d/[\w-]+\.json\.gz", one["Key"])
            body = s3.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
            found += [json.loads(line) for line in gzip.decompress(body).splitlines()]
    return sorted(found, key=lambda line: (line["version"], line["captured_at"]))


def test_every_event_becomes_a_line(tmp_path: Path, endpoint: str, s3: Any) -> None:
    """A cart's history has a line for each of its events, its last value last, and a line that tells of its end."""
    with whole_path(tmp_path, functions=archive(endpoint)) as path:
        path.write_config(ROUTE)
        path.start()
        for number in range(60):
            path.client.hset(f"cart:{number % 3}", "tea", number)
        wait_for(lambda: len(lines_in(s3)) >= 60, "sixty lines")
        path.client.delete("cart:0")
        wait_for(lambda: len(lines_in(s3)) >= 61, "the line of the delete")
        assert path.stop() == 0
    lines = lines_in(s3)
    assert len(lines) == 61
    for number in (1, 2):
        mine = [line for line in lines if line["key"] == f"cart:{number}"]
        assert len(mine) == 20
        assert json.loads(mine[-1]["value"]) == {"tea": str(57 + number)}
    last = [line for line in lines if line["key"] == "cart:0"][-1]
    assert (last["event"], last["deleted"], "value" in last) == ("del", True, False)


def test_a_bucket_that_is_not_there_is_told_before_the_start(tmp_path: Path, endpoint: str) -> None:
    """The engine does not start on a function that can't work, and says what is to be done."""
    with whole_path(tmp_path, functions=archive(endpoint, "nowhere")) as path:
        path.write_config(ROUTE)
        path.launch()
        wait_for(path.is_over, "the refusal")
        assert refusal_of(path).count("create it, or name another in ARCHIVE_BUCKET") == 1


def refusal_of(path: PathUnderTest) -> str:
    assert "Traceback" not in path.log()
    return path.log()
