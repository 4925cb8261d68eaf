"""Functions that keep older values out by themselves: what they say, what the engine makes of it, and who is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.retry import RetryPolicy
from engine.delivery.lanes.settle import Frame
from engine.delivery.lanes.work import Cause
from engine.delivery.reading.questions import Fetched
from engine.delivery.targets.answers import function_error, refuses_older_versions
from engine.delivery.targets.probe import Probe, probe_functions
from engine.model import Failure
from engine.routing.routes import RouteTable
from engine.supervision.reload import Reload
from lambdas.aurora_mysql.settings import Settings as AuroraSettings
from lambdas.contract import DestinationUnavailable, FenceWanted, SetupError
from lambdas.serving import serve_batch

PROMISE = {"batchItemFailures": [], "refusesOlderVersions": True}


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def serve(event: dict[str, Any], refuses: bool, written: list[str] | None = None) -> dict[str, Any]:
    def write(records: Any, time_left: Any) -> dict[str, str]:
        (written if written is not None else []).extend(record.record_id for record in records)
        return {}

    return serve_batch(event, Context(), lambda: 0, write, lambda _: None, refuses_older_versions=refuses)


RECORD = {"record_id": "0", "id": "k", "body": "{}"}


def test_the_empty_batch_is_answered_with_the_promise() -> None:
    """A function says that it refuses older versions when it is asked whether it can work, and only if it does."""
    assert serve({"records": []}, True) == PROMISE
    assert serve({"records": []}, False) == {"batchItemFailures": []}
    assert serve({"records": [RECORD]}, True) == {"batchItemFailures": []}


def test_an_unfenced_batch_is_for_those_who_promised() -> None:
    """A function that no longer keeps the promise writes nothing of a batch that counts on it."""
    written: list[str] = []
    with pytest.raises(FenceWanted):
        serve({"records": [RECORD], "unfenced": True}, False, written)
    assert written == []
    serve({"records": [RECORD], "unfenced": True}, True, written)
    serve({"records": [RECORD]}, False, written)
    assert written == ["0", "0"]


@pytest.mark.parametrize(("deletes", "refuses"), [("tombstone", True), ("delete", False)])
def test_a_row_that_is_deleted_takes_its_version_along(deletes: str, refuses: bool) -> None:
    """The Aurora function promises nothing where an older value could bring back a row that is gone."""
    from lambdas.aurora_mysql.mapping import read_mappings

    mapping = {"keys": ["a"], "table": "a", "key": {"column": "k"}, "columns": {}, "deletes": deletes}
    kept = {"keys": ["b"], "table": "b", "key": {"column": "k"}, "columns": {}}
    settings = AuroraSettings("h", "u", "d", read_mappings(json.dumps([kept, mapping])))
    assert settings.refuses_older_versions is refuses


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[1]", b"no", b'{"refusesOlderVersions": "true"}', b'"x"'])
def test_whatever_is_not_the_promise_is_none(body: bytes) -> None:
    """Only the very word counts: a function that answers anything else is fenced."""
    assert not refuses_older_versions(body)
    assert refuses_older_versions(json.dumps(PROMISE).encode())


@contextmanager
def function(error: str, answer: Any) -> Iterator[AwsSettings]:
    """Serve Lambda with functions that all answer this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(answer).encode()
            self.send_response(200)
            if error:
                self.send_header("X-Amz-Function-Error", error)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield AwsSettings(region="eu-west-1", lambda_endpoint_url=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("error", "answer", "problems", "refusing"),
    [
        ("", PROMISE, [], {"f"}),
        ("", {"batchItemFailures": []}, [], set()),
        ("Unhandled", PROMISE, ["f failed with an empty batch: no reason given"], set()),
        ("Unhandled", {"errorType": "SetupError", "errorMessage": "no table"}, ["f cannot work: no table"], set()),
        (
            "Unhandled",
            {"errorType": "KeyError", "errorMessage": "records"},
            ["f failed with an empty batch: KeyError: records"],
            set(),
        ),
    ],
)
def test_the_probe_hears_both(
    monkeypatch: pytest.MonkeyPatch, error: str, answer: Any, problems: list[str], refusing: set[str]
) -> None:
    """The empty batch finds out what keeps a function from working, and what it promises; an error promises nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with function(error, answer) as aws:
        probe: Probe = probe_functions([("route 'r'", "f")], aws, DeliverySettings())
    assert [problem.message for problem in probe.problems] == problems
    assert all(problem.passes is ("cannot work" not in problem.message) for problem in probe.problems)
    assert probe.refusing == refusing


def table(*promising: str, previous: RouteTable | None = None) -> RouteTable:
    routes = [
        RouteSettings(name="carts", function="a"),
        RouteSettings(name="old", function="a", payload="original"),
        RouteSettings(name="more", function="b"),
    ]
    return RouteTable.build(routes, previous).with_unfenced(promising)


def test_the_table_carries_the_promise() -> None:
    """Routes of batches to a function that promised are unfenced, in every process; single records have no version."""
    decoded = RouteTable.decode(table("a").encode())
    assert [decoded.routes[slot].name for slot in range(3) if decoded.unfenced >> slot & 1] == ["carts"]
    assert RouteTable.build(list(decoded.routes.values()), decoded).unfenced == 0


def test_a_reload_that_changes_only_the_promise_is_one() -> None:
    """A function whose write mode was changed is fenced again by a reload of the same routes."""
    reload = Reload(table("a"), 5_000)
    reload.planning()
    assert not reload.planned(table("a", previous=reload.newest), 0)
    reload.planning()
    assert reload.planned(table(previous=reload.newest), 0)
    assert reload.newest.unfenced == 0


def test_the_batch_says_that_it_is_unfenced() -> None:
    """The function hears whether the engine counts on its promise, and payloads stay within their bound."""
    builder = PayloadBuilder(RouteSettings(name="r", function="f"), 0, 1_000)
    entry = (b"k", Cause("set", 5, Frame(1)))
    value = Fetched(b"k", "string", "{}", "", 7)
    fenced = builder.build([entry], [value], 9).payload
    unfenced = builder.build([entry], [value], 9, is_unfenced=True).payload
    assert "unfenced" not in json.loads(fenced)
    assert json.loads(unfenced) == json.loads(fenced) | {"unfenced": True}


@pytest.mark.parametrize(
    ("raised", "failure", "wants_fence"),
    [
        (SetupError("no table"), Failure.REFUSED, False),
        (DestinationUnavailable("the token has expired"), Failure.SERVICE, False),
        (FenceWanted("not versioned"), Failure.REFUSED, True),
    ],
)
def test_what_functions_raise_by_contract_is_no_attempt(raised: Exception, failure: Failure, wants_fence: bool) -> None:
    """An error that says nothing of the records counts against none of them, and none of it is lost."""
    body = json.dumps({"errorType": type(raised).__name__, "errorMessage": str(raised)}).encode()
    outcome = function_error(body)
    assert (outcome.failure, outcome.wants_fence, outcome.is_lost) == (failure, wants_fence, False)
    assert not RetryPolicy(0, -1).counts(outcome)
