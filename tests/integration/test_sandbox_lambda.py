"""The sandbox's Lambda runtime, asked by boto3 and over plain HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from botocore.exceptions import ClientError

from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from tests.sandbox_functions import HANDLERS, WAIT_S_MAX, invoke, is_running, poll


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the handlers' module, and the files by which they talk."""
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "sandbox_handlers.py").write_text(HANDLERS)
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[LambdaRuntime]:
    """One runtime for all tests of this module."""

    def spec(function: str, **options: Any) -> FunctionSpec:
        environment = {"DYNAMO_TABLE": "carts", "PYTHONPATH": str(folder)}
        handler = f"sandbox_handlers:{function}"
        return FunctionSpec(options.pop("name", function), handler, environment=environment, **options)

    functions = [
        FunctionSpec("accept", "accept"),
        *(spec(name) for name in ("echo", "about", "fail", "leave", "large", "unserialisable", "touch")),
        spec("stall", timeout_s=0.5),
        spec("wait", concurrency_max=2),
        spec("wait", name="one", concurrency_max=1),
    ]
    before = os.environ.get("AWS_PROFILE")
    os.environ["AWS_PROFILE"] = "somebody"
    try:
        with LambdaRuntime(
            functions,
            journal=folder / "journal.jsonl",
            journal_payloads=True,
            environment={"SHARED": "yes", "DYNAMO_TABLE": "overridden"},
        ) as runtime:
            yield runtime
    finally:
        os.environ.pop("AWS_PROFILE")
        if before is not None:
            os.environ["AWS_PROFILE"] = before


@pytest.fixture(scope="module")
def client(runtime: LambdaRuntime) -> Any:
    """A boto3 client of the runtime."""
    return runtime.client()


def http(runtime: LambdaRuntime, function: str, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    """Post a body as it is."""
    url = f"{runtime.endpoint}/2015-03-31/functions/{function}/invocations"
    return urllib3.request("POST", url, body=body, headers=headers, retries=False)


def journal_of(folder: Path, function: str) -> list[dict[str, Any]]:
    """Return the function's lines."""
    whole, _, _ = (folder / "journal.jsonl").read_bytes().rpartition(b"\n")
    lines = [json.loads(line) for line in whole.splitlines()]
    return [line for line in lines if line["function"] == function]


def test_success(client: Any):
    """A function's answer comes back unchanged, with the headers that boto3 expects."""
    event = {"records": [{"id": "kéy", "body": "\u2028"}], "n": 1.5, "none": None}
    response, answer = invoke(client, "echo", event)
    assert answer == event
    assert response["StatusCode"] == 200
    assert response["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in response


def test_no_payload_is_an_empty_event(client: Any):
    """Without a payload the event is an empty object, as in Lambda."""
    assert client.invoke(FunctionName="echo")["Payload"].read() == b"{}"


def test_context_and_environment(client: Any):
    """A handler sees its context, its own variables over the shared ones, and nothing of the caller's AWS set-up."""
    response, answer = invoke(client, "about", {})
    assert answer["request_id"] == response["ResponseMetadata"]["RequestId"]
    assert answer["arn"].endswith(":function:about")
    assert answer["name"] == "about"
    assert 0 < answer["left_ms"] <= 30_000
    assert (answer["table"], answer["shared"], answer["profile"]) == ("carts", "yes", None)


def test_worker_is_kept_warm(client: Any):
    """Invocations one after the other run in the same process."""
    pids = {invoke(client, "about", {})[1]["pid"] for _ in range(5)}
    assert len(pids) == 1


@pytest.mark.parametrize(
    "name",
    [
        "echo",
        "echo:$LATEST",
        "123456789012:function:echo",
        "arn:aws:lambda:us-east-1:123456789012:function:echo",
        "arn:aws:lambda:us-east-1:123456789012:function:echo:live",
    ],
)
def test_names(client: Any, name: str):
    """A function is found by name, partial ARN and ARN, each with or without a qualifier."""
    response = client.invoke(FunctionName=name, Payload=b"1")
    assert response["Payload"].read() == b"1"


def test_qualifier(client: Any):
    """A qualifier in the query is taken."""
    assert client.invoke(FunctionName="echo", Qualifier="live", Payload=b"1")["StatusCode"] == 200


def test_function_error(client: Any):
    """A handler's exception is HTTP 200 with FunctionError, and its type, message and stack in the body."""
    response, answer = invoke(client, "fail", {})
    assert (response["StatusCode"], response["FunctionError"]) == (200, "Unhandled")
    assert (answer["errorType"], answer["errorMessage"]) == ("KeyError", "'missing'")
    assert "in fail" in answer["stackTrace"][-1]


def test_answer_that_is_no_json(client: Any):
    """An answer that can't be written as JSON is a function error."""
    response, answer = invoke(client, "unserialisable", {})
    assert response["FunctionError"] == "Unhandled"
    assert answer["errorType"] == "TypeError"


def test_exit_of_the_process(client: Any):
    """A process that ends is a function error, and the next invocation gets a new one."""
    for _ in range(2):
        response, answer = invoke(client, "leave", {})
        assert response["FunctionError"] == "Unhandled"
        assert answer["errorType"] == "Runtime.ExitError"
        assert "exit status 3" in answer["errorMessage"]


def test_timeout(client: Any, folder: Path):
    """An invocation that takes too long is answered so, and its process is killed with those that it started."""
    response, answer = invoke(client, "stall", {})
    assert response["FunctionError"] == "Unhandled"
    request_id = re.escape(response["ResponseMetadata"]["RequestId"])
    pattern = rf"\d{{4}}-\d\d-\d\dT[\d:.]+Z {request_id} Task timed out after 0\.50 seconds"
    assert re.fullmatch(pattern, answer["errorMessage"])
    pids = [int(pid) for pid in (folder / "stalled").read_text().split()]
    poll(lambda: not any(is_running(pid) for pid in pids))


def test_throttled(client: Any, folder: Path):
    """More invocations at once than the function may have are refused with their reason; later ones are not."""
    with ThreadPoolExecutor() as threads:
        first = threads.submit(invoke, client, "one", {"touch": "one-began", "until": "one-may-end"})
        poll((folder / "one-began").exists)
        with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
            client.invoke(FunctionName="one", Payload=b"{}")
        (folder / "one-may-end").write_text("")
        assert first.result()[1] == "done"
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert response["Error"]["Message"] == "Rate Exceeded."
    assert invoke(client, "one", {"touch": "one-again", "until": "one-may-end"})[1] == "done"
    assert [line["status"] for line in poll_journal(folder, "one", 3)].count(429) == 1


def poll_journal(folder: Path, function: str, count: int) -> list[dict[str, Any]]:
    """Return the function's lines once there are as many."""

    def lines() -> list[dict[str, Any]]:
        found = journal_of(folder, function)
        return found if len(found) >= count else []

    found: list[dict[str, Any]] = poll(lines)
    return found


def test_parallel(client: Any, folder: Path):
    """Two invocations run at the same time: each ends only once the other has begun."""
    with ThreadPoolExecutor() as threads:
        left = threads.submit(invoke, client, "wait", {"touch": "left", "until": "right"})
        right = threads.submit(invoke, client, "wait", {"touch": "right", "until": "left"})
        assert (left.result()[1], right.result()[1]) == ("done", "done")


def test_unknown_function(client: Any):
    """A function that does not exist is a modelled error, for Invoke and for GetFunction."""
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="function:nobody"):
        client.invoke(FunctionName="nobody", Payload=b"{}")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="nobody")


def test_get_function(client: Any):
    """GetFunction tells a function's name and limits."""
    answer = client.get_function(FunctionName="one")
    assert answer["Configuration"]["FunctionName"] == "one"
    assert answer["Configuration"]["State"] == "Active"
    assert answer["Concurrency"] == {"ReservedConcurrentExecutions": 1}


@pytest.mark.parametrize("function", ["accept", "large"])
def test_request_limit(client: Any, function: str):
    """A payload of exactly 6 MB passes, one byte more is refused with 413 and runs nothing."""
    event = b'{"size":1,"pad":"%s"}'
    payload = event % (b"x" * (6 * 1024 * 1024 - len(event) + 2))
    assert client.invoke(FunctionName=function, Payload=payload)["StatusCode"] == 200
    with pytest.raises(ClientError) as caught:
        client.invoke(FunctionName=function, Payload=payload + b" ")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert caught.value.response["Error"]["Code"] == "RequestEntityTooLargeException"
    assert "6291457 byte payload is too large" in caught.value.response["Error"]["Message"]


def test_response_limit(client: Any):
    """An answer over 6 MB is a function error; the largest allowed one comes through whole."""
    size = 6_291_556 - 2
    _, answer = invoke(client, "large", {"size": size})
    assert len(answer) == size
    response, answer = invoke(client, "large", {"size": size + 1})
    assert response["FunctionError"] == "Unhandled"
    assert answer["errorType"] == "Function.ResponseSizeTooLarge"


def test_invalid_json(client: Any):
    """A payload that is not JSON is refused with 400 and runs nothing; the worker lives on."""
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke(FunctionName="echo", Payload=b'{"records": [')
    assert client.invoke(FunctionName="echo", Payload=b"1")["Payload"].read() == b"1"


def test_event_invocation(client: Any, folder: Path):
    """An asynchronous invocation is answered with 202 at once, and runs."""
    response = client.invoke(FunctionName="touch", InvocationType="Event", Payload=b'{"touch": "by-event"}')
    assert response["StatusCode"] == 202
    poll((folder / "by-event").exists)
    assert poll_journal(folder, "touch", 1)[0]["status"] == 202


def test_event_limit(client: Any):
    """An asynchronous payload over 1 MB is refused with 413."""
    with pytest.raises(ClientError, match="too large for the Event invocation type"):
        client.invoke(FunctionName="touch", InvocationType="Event", Payload=b'"%s"' % (b"x" * 1024 * 1024))


def test_dry_run(client: Any):
    """A dry run is answered with 204, and runs nothing."""
    response = client.invoke(FunctionName="fail", InvocationType="DryRun", Payload=b"{}")
    assert response["StatusCode"] == 204
    assert "FunctionError" not in response


def test_unknown_requests(runtime: LambdaRuntime):
    """What the sandbox does not know is refused, not accepted by accident."""
    assert http(runtime, "echo", b"{}", **{"X-Amz-Invocation-Type": "Later"}).status == 400
    answer = urllib3.request("GET", f"{runtime.endpoint}/2015-03-31/functions/", retries=False)
    assert answer.status == 404


def test_expect_continue(runtime: LambdaRuntime):
    """A caller that waits for leave before it sends its body gets it."""
    with socket.create_connection(("127.0.0.1", runtime.port), timeout=WAIT_S_MAX) as connection:
        head = (
            "POST /2015-03-31/functions/echo/invocations HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(b"42")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n42")


def test_stand_in(client: Any, folder: Path):
    """The stand-in accepts a batch without a worker, and the journal counts its records."""
    event = {"records": [{"record_id": str(number), "body": '{"records": 1}'} for number in range(250)]}
    before_ns = time.time_ns()
    _, answer = invoke(client, "accept", event)
    after_ns = time.time_ns()
    assert answer == {"batchItemFailures": []}
    (line,) = poll(lambda: [line for line in journal_of(folder, "accept") if line["event"] == event])
    assert line["records"] == 250
    assert line["payload_bytes"] == len(json.dumps(event))
    assert before_ns <= line["started_ns"] <= line["ended_ns"] <= after_ns
    assert (line["status"], line["error"]) == (200, "")


def test_journal_of_errors_and_line_breaks(runtime: LambdaRuntime, client: Any, folder: Path):
    """The journal names errors, and an indented payload still takes one line."""
    event = {"records": [{"id": "a"}, {"id": "b"}], "mark": "journal"}
    assert http(runtime, "fail", json.dumps(event, indent=2).replace("\n", "\r\n").encode()).status == 200
    (line,) = poll(lambda: [line for line in journal_of(folder, "fail") if line["event"] == event])
    assert (line["status"], line["error"], line["records"]) == (200, "KeyError", 2)
