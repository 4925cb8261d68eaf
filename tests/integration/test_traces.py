"""Traces of the whole path: a real server, the sandbox's Lambda runtime, a real receiver of OTLP/HTTP."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.ports import free_port
from tests.otlp_receiver import OtlpReceiver, attributes_of, otlp_receiver
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

MILLION = 1_000_000
STAGES = ["captured", "waited", "fetched", "invoked", "settled"]


def otlp(url: str, per_million: int = MILLION) -> str:
    return f'[otlp]\nendpoint = "{url}"\ntraced_changes_per_million = {per_million}\n'


@contextmanager
def traced_path(folder: Path, receiver: OtlpReceiver, *, more: str = "") -> Iterator[PathUnderTest]:
    """Run an engine that traces every change, and a function that writes down what it is told."""
    noted = folder / "noted.jsonl"
    functions = (FunctionSpec("noting", "tests.functions:note_trace", environment={"NOTED": str(noted)}),)
    with whole_path(folder, functions=functions, environment={"OTEL_BSP_SCHEDULE_DELAY": "100"}) as path:
        path.write_config(f"{otlp(receiver.url)}{more}{ROUTE.replace('accept', 'noting')}")
        path.start()
        yield path


def noted(path: PathUnderTest) -> list[dict[str, Any]]:
    file = path.folder / "noted.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def of_trace(receiver: OtlpReceiver, trace_id: str) -> list[Any]:
    """Return the spans of a trace, in the order of their beginnings, and of their stages where they begin together."""
    spans = [span for span in receiver.spans() if span.trace_id.hex() == trace_id]
    return sorted(spans, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano, STAGES.index(span.name)))


def is_whole(receiver: OtlpReceiver, trace_id: str) -> bool:
    return "settled" in {span.name for span in of_trace(receiver, trace_id)}


def test_a_change_is_one_trace(tmp_path: Path) -> None:
    """A traced change gives one trace, its stages one after the other; the function is told the same trace twice."""
    with otlp_receiver() as receiver, traced_path(tmp_path, receiver) as path:
        path.client.hset("secret:7", "f", "v")
        wait_for(lambda: noted(path), "the function is invoked")
        (said,) = noted(path)
        version, trace_id, parent_id, flags = said["context"].split("-")
        assert (version, flags) == ("00", "01")
        assert said["records"] == {"secret:7": said["context"]}
        wait_for(lambda: is_whole(receiver, trace_id), "the whole trace")
        spans = of_trace(receiver, trace_id)
        assert [span.name for span in spans] == STAGES
        assert [span.span_id.hex() for span in spans if span.name == "invoked"] == [parent_id]
        root = spans[0]
        assert not root.parent_span_id
        assert {span.parent_span_id for span in spans[1:]} == {root.span_id}
        for earlier, later in pairwise(spans):
            assert earlier.end_time_unix_nano == later.start_time_unix_nano
        said_of = {span.name: attributes_of(span) for span in spans}
        assert said_of["captured"]["ingest.event"] == "hset"
        assert said_of["fetched"]["ingest.node"] == f"127.0.0.1:{path.server.port}"
        assert said_of["invoked"]["ingest.attempt"] == said_of["invoked"]["ingest.batch_size"] == 1
        assert said_of["invoked"]["faas.invoked_name"] == "noting"
        assert said_of["settled"] | {"ingest.route": "all", "ingest.outcome": "accepted"} == said_of["settled"]
        assert path.stop() == 0
        # Of no key and no value is there anything in what was sent.
        assert "secret" not in str(receiver.spans())


def test_a_retry_shows_its_attempts(tmp_path: Path) -> None:
    """A batch that failed is invoked again in the same trace, each attempt a span of its own with its number."""
    (tmp_path / "fail-1").touch()
    (tmp_path / "fail-2").touch()
    with otlp_receiver() as receiver, traced_path(tmp_path, receiver, more="[log]\nkeys = true\n") as path:
        path.client.hset("cart:7", "f", "v")
        wait_for(lambda: len(noted(path)) == 3, "three invocations")
        trace_ids = {one["context"].split("-")[1] for one in noted(path)}
        assert len(trace_ids) == 1
        (trace_id,) = trace_ids
        wait_for(lambda: is_whole(receiver, trace_id), "the whole trace")
        spans = of_trace(receiver, trace_id)
        assert [span.name for span in spans] == ["captured", *["waited", "fetched", "invoked"] * 3, "settled"]
        invoked = [span for span in spans if span.name == "invoked"]
        assert [span.span_id.hex() for span in invoked] == [one["context"].split("-")[2] for one in noted(path)]
        attempts = [(attributes_of(one)["ingest.attempt"], attributes_of(one)["ingest.outcome"]) for one in invoked]
        assert attempts == [(1, "function_error"), (2, "function_error"), (3, "accepted")]
        assert [span.status.code for span in invoked] == [2, 2, 0]
        assert attributes_of(spans[0])["ingest.key"] == "cart:7"
        assert path.stop() == 0


def test_without_a_receiver_every_key_arrives(tmp_path: Path) -> None:
    """Nobody takes the spans, and the process that sends them is killed: every key arrives all the same."""
    nobody = f"http://127.0.0.1:{free_port('nobody')}"
    expected = {f"key:{number}".encode(): {"n": str(number)} for number in range(5_000)}
    with whole_path(tmp_path, environment={"OTEL_BSP_SCHEDULE_DELAY": "100"}) as path:
        path.write_config(f"{otlp(nobody)}{ROUTE}")
        path.start()
        for part in range(0, 5_000, 500):
            if part == 1_000:
                path.child("console").send_signal(signal.SIGSTOP)
            elif part == 3_000:
                path.child("console").kill()
            pipe = path.client.pipeline(transaction=False)
            for number in range(part, part + 500):
                pipe.hset(f"key:{number}", "n", number)
            pipe.execute()
        wait_for(lambda: len(path.last()) == len(expected), "every key")
        assert path.last() == expected
        wait_for(lambda: "otlp_not_taken" in path.log(), "a line of log")
        assert path.stop() == 0
        assert "Traceback" not in path.log()


def test_untraced_records_say_nothing(tmp_path: Path) -> None:
    """By default no record has a parent, no invocation a context, and no process sends anything."""
    noted_at = tmp_path / "noted.jsonl"
    functions = (FunctionSpec("noting", "tests.functions:note_trace", environment={"NOTED": str(noted_at)}),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(ROUTE.replace("accept", "noting"))
        path.start()
        path.client.hset("cart:7", "f", "v")
        wait_for(lambda: noted(path), "the function is invoked")
        assert noted(path) == [{"context": None, "records": {"cart:7": None}}]
        assert path.stop() == 0
