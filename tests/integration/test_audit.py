"""An audit of a real server and a real table, written by the function itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from engine.audit.gone import publish_gone
from engine.config import RouteSettings, Settings
from engine.sandbox.demo import clean_environment, wait_until_ready
from engine.sandbox.stack import Sandbox
from engine.settings.file import load_settings
from tests.support import wait_for

PEOPLE = '[[routes]]\nname = "people"\nfunction = "dynamodb"\ndestination = "dynamodb://engine-sandbox"\n'
DELETES = 'events = ["*", "del", "expired", "evicted"]\n'


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


@dataclass
class Pair:
    """A server and a table that begin empty, and the command that compares them."""

    sandbox: Sandbox
    folder: Path

    @property
    def client(self) -> Any:
        return redis.Redis.from_url(self.sandbox.redis_url)

    def configure(self, routes: str = PEOPLE) -> None:
        folder = self.folder
        text = f'[redis]\nurl = "{self.sandbox.redis_url}"\n[supervision]\nstatus_file = "{folder}/status.json"\n'
        text += f'checkpoint_file = "{folder}/checkpoint"\n[delivery]\nbacklog_folder = "{folder}/backlog"\n'
        (folder / "engine.toml").write_text(text + routes)

    def environment(self) -> dict[str, str]:
        return clean_environment(self.sandbox.child_environment())

    def audit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine", "audit", "--config", str(self.folder / "engine.toml"), *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False)

    def found(self, *arguments: str) -> dict[str, Any]:
        """Return the one route's report; the exit status must be that of its differences."""
        result = self.audit("--json", *arguments)
        assert result.stdout, result.stderr
        content = orjson.loads(result.stdout)
        (route,) = content["routes"]
        assert result.returncode == content["exit_code"] == int(route["differences"] + route["unheard"] > 0)
        return dict(route)

    def deliver(self, *records: Mapping[str, Any]) -> None:
        """Have the function write these records."""
        batch = [
            {"record_id": str(n), "obj_name": record["id"], "event": "hset", "type": "hash", **record}
            for n, record in enumerate(records)
        ]
        for start in range(0, len(batch), 500):
            event = orjson.dumps({"records": batch[start : start + 500]})
            answer = self.sandbox.lambda_client().invoke(FunctionName="dynamodb", Payload=event)
            assert orjson.loads(answer["Payload"].read()) == {"batchItemFailures": []}

    def hold(self, key: str, **fields: str) -> None:
        """Have both hold this hash."""
        self.client.hset(key, mapping=fields)
        self.deliver({"id": key, "body": orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode()})


@pytest.fixture
def pair(sandbox: Sandbox, tmp_path: Path) -> Pair:
    pair = Pair(sandbox, tmp_path)
    pair.client.flushall()
    client = sandbox.dynamodb_client()
    for page in client.get_paginator("scan").paginate(TableName=sandbox.table, ProjectionExpression="id"):
        for start in range(0, len(page["Items"]), 25):
            deletes = [{"DeleteRequest": {"Key": item}} for item in page["Items"][start : start + 25]]
            client.batch_write_item(RequestItems={sandbox.table: deletes})
    pair.configure()
    return pair


def names(finding: Mapping[str, Any]) -> set[str]:
    assert finding["count"] == len(finding["examples"])
    return {example["id"] for example in finding["examples"]}


def test_an_equal_pair(pair: Pair) -> None:
    """Every value equal: exit 0, and nothing but counts; text for people, JSON for scripts."""
    for number in range(20):
        pair.hold(f"person:{number}", name=f"n{number}", other="ü")
    route = pair.found()
    assert (route["compared"], route["items"], route["differences"]) == (20, 20, 0)
    result = pair.audit()
    assert result.returncode == 0
    assert "equal" in result.stdout
    assert result.stderr == ""


def test_every_kind_of_difference_is_found(pair: Pair) -> None:
    """What is missing, stale, different, extra or too large is told apart, each with its keys, binary ones too."""
    client, table = pair.client, pair.sandbox.dynamodb_client()
    for number in range(150):
        pair.client.hset(f"person:{number}", "n", number)
    pair.deliver(*({"id": f"person:{n}", "body": f'{{"n":"{n}"}}'} for n in range(150)))
    table.delete_item(TableName=pair.sandbox.table, Key={"id": {"S": "person:7"}})
    client.hset("person:8", "n", "newer")
    item = {"id": {"S": "person:9"}, "obj_name": {"S": "person:9"}, "body": {"S": "{}"}, "version": {"N": "5"}}
    table.put_item(TableName=pair.sandbox.table, Item=item)
    client.delete("person:10")
    client.hset(b"person:\xff", "n", 1)
    client.hset(b"", "n", 1)
    client.set("text", "no hash: the route does not hear of it")
    tombstone = {"id": {"S": "person:11"}, "version": {"N": "5"}, "deleted_at_ms": {"N": "5"}}
    table.put_item(TableName=pair.sandbox.table, Item=tombstone)
    route = pair.found()
    assert names(route["missing"]) == {"person:7", "person:11", "cGVyc29uOv8="}
    assert {"id": "cGVyc29uOv8=", "id_encoding": "base64"} in route["missing"]["examples"]
    assert names(route["different"]) == {"person:8"}
    assert names(route["stale"]) == {"person:9"}
    assert names(route["extra"]) == {"person:10"}
    assert names(route["unstorable"]) == {""}
    assert route["differences"] == 6
    assert not route["is_extra_wrong"]
    result = pair.audit()
    assert result.returncode == 1
    assert "6 keys differ" in result.stdout
    assert "person:8" in result.stdout


def test_what_the_cache_forgets_the_store_keeps(pair: Pair) -> None:
    """An item that Redis lacks is a difference only where the route hears of every way to go."""
    pair.hold("kept", name="n")
    pair.client.delete("kept")
    route = pair.found()
    assert (route["extra"]["count"], route["differences"]) == (1, 0)
    pair.configure(PEOPLE + DELETES)
    route = pair.found()
    assert (route["extra"]["count"], route["differences"]) == (1, 1)


def test_types_and_patterns(pair: Pair) -> None:
    """A route that hears of every write compares every type; keys and items of other routes are left alone."""
    pair.configure(PEOPLE + 'keys = ["a:*"]\nevents = ["*"]\n')
    client = pair.client
    client.set("a:string", "s")
    client.rpush("a:list", "b", "a")
    client.zadd("a:zset", {"m": 1.5})
    client.set("b:string", "another route's")
    pair.deliver(
        {"id": "a:string", "type": "string", "body": '"s"'},
        {"id": "a:list", "type": "list", "body": '["b","a"]'},
        {"id": "a:zset", "type": "zset", "body": '[["m",1.5]]'},
        {"id": "b:gone", "body": "{}"},
    )
    route = pair.found()
    assert (route["compared"], route["foreign"], route["differences"], route["extra"]["count"]) == (3, 1, 0, 0)


def test_changes_during_the_audit_are_no_difference(pair: Pair) -> None:
    """Keys that nobody delivers, and that change all the time, are not judged; one that stands still is."""
    pair.client.hset("still", "n", "0")
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.wait(0.1):
            number += 1
            pipe = pair.client.pipeline()
            for key in range(50):
                pipe.hset(f"person:{key}", "n", number)
            pipe.execute()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        wait_for(lambda: pair.client.exists("person:49"), "the first change")
        route = pair.found()
    finally:
        over.set()
        thread.join()
    assert names(route["missing"]) == {"still"}
    assert (route["differences"], route["changing"]) == (1, 50)


def test_a_repair_without_an_engine(pair: Pair) -> None:
    """Marks that nobody hears are an error with its remedy, and exit 1."""
    pair.client.hset("missing", "f", "v")
    result = pair.audit("--repair", "--json")
    assert result.returncode == 1
    assert "engine: error: no engine has settled, or heard of, 1 key to be repaired" in result.stderr
    assert orjson.loads(result.stdout)["routes"][0]["unheard"] == 1


def test_a_repair_marks_what_differs(pair: Pair) -> None:
    """Missing and different keys are marked as repair, gone ones as repair_gone, on their own channels.

    What a subscriber has heard counts as repaired, but for gone keys: no engine runs here that could settle them.
    """
    pair.configure(PEOPLE + DELETES)
    pair.client.hset("missing", "f", "v")
    pair.client.hset(b"miss\xff", "f", "v")
    pair.hold("gone", f="v")
    pair.client.delete("gone")
    engine = redis.Redis.from_url(pair.sandbox.redis_url, client_name="engine-subscriber-1")
    listener = engine.pubsub()
    listener.psubscribe("__keyspace@0__:*")
    wait_for(lambda: listener.get_message(timeout=1), "the subscription")
    route = pair.found("--repair")
    assert (route["repaired"], route["unheard"]) == (2, 1)
    heard = {}
    while message := listener.get_message(timeout=0.5):
        heard[message["channel"]] = message["data"]
    assert heard == {
        b"__keyspace@0__:missing": b"repair",
        b"__keyspace@0__:miss\xff": b"repair",
        b"__keyspace@0__:gone": b"repair_gone",
    }


def test_a_running_engine_repairs(pair: Pair) -> None:
    """With an engine that listens, what a repair marks is delivered, deletes too: the next audit finds all equal."""
    pair.configure(PEOPLE + DELETES)
    for number in range(20):
        pair.hold(f"person:{number}", n=str(number))
    pair.client.hset("person:1", "n", "not delivered")
    pair.client.hset("person:new", "n", "not delivered")
    pair.client.delete("person:2")
    with running_engine(pair):
        first = pair.found("--repair")
        assert (first["differences"], first["repaired"]) == (3, 3)
        wait_for(lambda: pair.audit().returncode == 0, "equal sides")
        assert pair.found()["items"] == 20


@contextmanager
def running_engine(pair: Pair) -> Iterator[None]:
    command = [sys.executable, "-m", "engine", "start", "--config", str(pair.folder / "engine.toml")]
    with (pair.folder / "engine.log").open("w") as log:
        process = subprocess.Popen(command, env=pair.environment(), cwd=pair.folder, stdout=log, stderr=log)
    try:
        wait_until_ready(process, pair.folder / "status.json")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_many_keys(pair: Pair) -> None:
    """5,000 keys are compared; the two that were made to differ are found, and nothing else."""
    pipe = pair.client.pipeline(transaction=False)
    for number in range(5_000):
        pipe.hset(f"k:{number}", mapping={"n": number, "text": "t" * 50})
    pipe.execute()
    text = "t" * 50
    bodies = ((n, f'{{"n":"{n}","text":"{text}"}}') for n in range(5_000))
    pair.deliver(*({"id": f"k:{n}", "body": body} for n, body in bodies))
    pair.client.hset("k:77", "n", "x")
    pair.client.delete("k:78")
    route = pair.found("--keys-per-s", "100000")
    assert (route["compared"], route["items"]) == (4_999, 5_000)
    assert names(route["different"]) == {"k:77"}
    assert names(route["extra"]) == {"k:78"}


@pytest.mark.parametrize(
    ("routes", "arguments", "text"),
    [
        ('[[routes]]\nname = "bare"\nfunction = "f"\n', [], "routes: none names a destination"),
        ('[[routes]]\nname = "bare"\nfunction = "f"\n', ["--route", "bare"], "route 'bare': names no destination"),
        (PEOPLE, ["--route", "nobody"], "--route: no route is named 'nobody' (routes: people)"),
        (PEOPLE.replace("dynamodb://", "s3://"), [], "destination: 's3://engine-sandbox' is not a destination"),
    ],
)
def test_wrong_usage(pair: Pair, routes: str, arguments: list[str], text: str) -> None:
    """Where there is nothing to compare: exit 2 and one line that says so."""
    pair.configure(routes)
    result = pair.audit(*arguments)
    assert result.returncode == 2
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_table_that_is_not_there(pair: Pair) -> None:
    """A destination that can't be read is one line with its remedy, and exit 1."""
    pair.configure(PEOPLE.replace("engine-sandbox", "absent"))
    pair.client.hset("person:1", "f", "v")
    result = pair.audit()
    assert result.returncode == 1
    assert "the table absent cannot be read" in result.stderr
    assert "does the table exist" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def seen_by(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, int, tuple[RouteSettings, ...]]:
    """Return the settings, the database and the routes, as the engine hands them to its comparer."""
    for name, value in pair.sandbox.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(str(pair.folder / "engine.toml"), {"AWS_REGION": "us-east-1"}, {})
    return settings, 0, settings.routes


def test_gone_keys_are_published(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that the table holds and Redis does not are marked as gone; what the route does not deliver is left."""
    pair.configure(PEOPLE + DELETES + 'keys = ["a:*"]\n')
    for key in ("a:there", "a:gone", "b:foreign"):
        pair.hold(key, f="v")
    pair.client.delete("a:gone", "b:foreign")
    listener = pair.client.pubsub()
    listener.psubscribe("__keyspace@0__:*")
    wait_for(lambda: listener.get_message(timeout=1), "the subscription")
    report = publish_gone(*seen_by(pair, monkeypatch))
    assert (report.compared, report.published, report.unknown) == (3, 1, 0)
    message = wait_for(lambda: listener.get_message(timeout=1), "the mark")
    assert (message["channel"], message["data"]) == (b"__keyspace@0__:a:gone", b"repair_gone")
    assert listener.get_message(timeout=0.2) is None


def test_gone_keys_are_unknown_where_a_route_does_not_hear_all(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server evicts, a route that does not follow evictions keeps what it has, and spares it for all others;
    one without deletes is not even asked about.
    """
    pair.hold("gone", f="v")
    pair.client.delete("gone")
    pair.client.config_set("maxmemory", "1gb")
    pair.client.config_set("maxmemory-policy", "allkeys-lru")
    pair.configure(PEOPLE + 'events = ["*", "del"]\n')
    report = publish_gone(*seen_by(pair, monkeypatch))
    assert (report.compared, report.published, report.unknown) == (1, 0, 1)
    pair.configure(PEOPLE + DELETES + '[[routes]]\nname = "other"\nfunction = "accept"\nevents = ["hset", "del"]\n')
    report = publish_gone(*seen_by(pair, monkeypatch))
    assert (report.compared, report.published, report.unknown) == (1, 0, 1)
    pair.configure(PEOPLE + 'events = ["*"]\n')
    report = publish_gone(*seen_by(pair, monkeypatch))
    assert (report.compared, report.published, report.unknown) == (0, 0, 0)
    pair.client.config_set("maxmemory-policy", "noeviction")
    pair.client.config_set("maxmemory", "0")
