"""`engine routes test`: what would happen to a key, and why."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine.cli import run_command
from engine.config import RouteSettings
from engine.routing.events import EVENTS_BY_CLASS
from engine.routing.explain import fates_of
from engine.routing.routes import RouteTable
from engine.text import shown

SETTINGS = """
[aws]
region = "eu-west-1"
[[routes]]
name = "carts"
function = "carts"
keys = ["basket:*", "cart:*"]
events = ["changes"]
[[routes]]
name = "hashes"
function = "accept"
events = ["hset"]
[[routes]]
name = "orders"
function = "orders"
keys = ["order:*"]
payload = "original"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ENGINE_", "REDIS_", "AWS_", "META_MAP", "SUPPORTED_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "engine.toml").write_text(SETTINGS)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run_command(["routes", "test", *arguments, "--json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_which_routes_take_a_key_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Each route says which pattern took the key, or why it does not; a taker shows what its function is sent."""
    answer = asked(capsys, "cart:7", "--event", "hset")
    carts, hashes, orders = answer["routes"]
    assert (carts["taken"], carts["pattern"]) == (True, "cart:*")
    (record,) = carts["payload"]["records"]
    assert (record["id"], record["event"], record["type"], record["body"]) == (
        "cart:7", "hset", "hash", '{"field":"value"}',
    )  # fmt: skip
    assert hashes["taken"]
    assert not orders["taken"] and "order:*" in orders["why"] and orders["payload"] is None


def test_an_event_that_a_route_does_not_hear(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a deletion a route for changes tells its function with no body, and one for hset says nothing."""
    carts, hashes, _ = asked(capsys, "cart:7", "--event", "del")["routes"]
    assert carts["payload"]["records"][0]["body"] is None
    assert not hashes["taken"] and "does not listen" in hashes["why"]
    evicted, *_ = asked(capsys, "cart:7", "--event", "evicted", code=1)["routes"]
    assert not evicted["taken"] and "evicted" in evicted["why"]


def test_the_originals_payload(capsys: pytest.CaptureFixture[str]) -> None:
    """A route for a function of the original's shows the original's payload."""
    *_, orders = asked(capsys, "order:1", "--event", "hset")["routes"]
    assert orders["payload"] == {"id": "order:1", "obj_name": "order:1", "body": '{"field":"value"}'}


def test_a_key_that_nobody_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A key of no route exits with 1 and says so; the engine's own keys are nobody's."""
    assert run_command(["routes", "test", "user:1", "--event", "set"]) == 1
    assert "no route takes it" in capsys.readouterr().out
    answer = asked(capsys, "__engine_canary__stays", code=1)
    assert answer["routes"] == [] and "engine's own" in answer["notes"][0]


@pytest.mark.parametrize(
    ("event", "words"),
    [("hmset", "publishes hset"), ("HSET", "hset"), ("hste", "did you mean hset"), ("overwritten", "not captured")],
)
def test_a_wrong_event_is_named(event: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no event's name exits with 2, and with the right one."""
    assert run_command(["routes", "test", "cart:7", "--event", event]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_hostile_key_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A key's control characters command no terminal."""
    evil = "cart:\x1b[2J\u202e7"
    assert run_command(["routes", "test", evil, "--event", "hset"]) == 0
    said = capsys.readouterr().out
    assert shown(evil) in said
    assert all(char.isprintable() or char == "\n" for char in said)


ROUTES = [
    RouteSettings("changes", "f", events=("changes",)),
    RouteSettings("writes", "f", keys=("a*", "[bc]?"), events=("*",)),
    RouteSettings("some", "f", keys=("*1",), events=("hset", "absence")),
    RouteSettings("all ways", "f", events=("hset", "evicted", "del")),
    RouteSettings("expiry", "f", events=("changes",), include_expiry=True),
    RouteSettings("expired alone", "f", events=("expired",)),
]


@pytest.mark.parametrize("event", sorted(event for names in EVENTS_BY_CLASS.values() for event in names))
def test_the_explanation_is_what_the_table_does(event: str) -> None:
    """For every event, the explanation takes a key just where the table that subscribers route by does."""
    table = RouteTable.build(ROUTES)
    compiled = table.compile()
    for key in (b"a1", b"b2", b"zz1", b"zz", b""):
        routes = compiled.get(event.encode())
        mask = routes.mask(key) if routes is not None else 0
        for slot, fate in enumerate(fates_of(ROUTES, key, event)):
            assert fate.is_taken == bool(mask >> slot & 1), (key, fate)
