"""Benchmarks on a server of the user's, and on other sinks than the sandbox's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from benchmarks.__main__ import main as bench_main
from benchmarks.drive.commands import Mix
from benchmarks.drive.driver import Driver, drive
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load, lay_out
from benchmarks.drive.schedule import Arrivals, read_trace
from benchmarks.lag.check import in_redis
from benchmarks.measured.trial import Shape, ground
from benchmarks.scenarios.scenario import main
from benchmarks.stand.errors import SenderFailed
from benchmarks.stand.record import main as record_main
from benchmarks.stand.servers import SHARED, ServerError, named_server, redis_server, without_notifications
from benchmarks.stand.sinks import AWS_TABLE, ENDPOINT, FUNCTION, SinkError, sink
from engine.config import RedisSettings
from engine.sandbox.aws import sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.runtime import LambdaRuntime
from engine.sandbox.functions.spec import FunctionSpec
from engine.sandbox.valkey import ValkeyServer
from tests.tls_proxy import make_certificates, tls_in_front_of

LOAD = Load(Arrivals(rate_per_s=500.0), Keyspace(100, skew="each"), seconds=1.0)
SECRET = "not-to-be-seen"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    """A server that REDIS_URL names, in its database 3, with a password."""
    with ValkeyServer() as one:
        redis.Redis(port=one.port).config_set("requirepass", SECRET)
        monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@127.0.0.1:{one.port}/3")
        yield one


def client_of(server: ValkeyServer) -> redis.Redis:
    return redis.Redis(port=server.port, password=SECRET, db=3, decode_responses=True)


def test_a_run_leaves_the_users_server_as_it_was(server: ValkeyServer) -> None:
    """All arrives from the server of REDIS_URL; afterwards no key is on it and its flags are as they were."""
    client_of(server).config_set("notify-keyspace-events", "Ex")
    with ground(Shape()) as place:
        assert not place.rig.server_pid
        trial = place.run(LOAD)
        assert client_of(server).dbsize() > 0
    assert trial.verdict.is_well and trial.verdict.keys == 100 and not trial.missing
    assert trial.accounts.cpu_us("server") > 0
    assert client_of(server).dbsize() == 0
    assert client_of(server).config_get("notify-keyspace-events")["notify-keyspace-events"] == "xE"
    with without_notifications(place.rig.redis):
        assert client_of(server).config_get("notify-keyspace-events")["notify-keyspace-events"] == ""
    assert client_of(server).config_get("notify-keyspace-events")["notify-keyspace-events"] == "xE"


def test_a_server_in_use_is_refused(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with keys takes no load unless the user says so, and keeps its keys; one with keys like ours never."""
    client_of(server).set("cart:1", "x")
    with pytest.raises(ServerError, match=f"holds 1 keys.*{SHARED}=1"), redis_server():
        pass
    monkeypatch.setenv(SHARED, "1")
    with redis_server() as one:
        assert one.keys == ("bench:*",)
        client_of(server).set("bench:000000001", "x")
    assert client_of(server).keys() == ["cart:1"]
    client_of(server).set("bench:000000001", "x")
    with pytest.raises(ServerError, match="would be overwritten"), redis_server():
        pass


def test_what_is_wrong_with_redis_url_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, and no URL: one clear error of the command, without the password."""
    for url, why in ((f"redis://:{SECRET}@127.0.0.1:1/0", "127.0.0.1:1"), (f"http://:{SECRET}@x", "redis://")):
        monkeypatch.setenv("REDIS_URL", url)
        result = CliRunner().invoke(main, ["steady"])
        assert result.exit_code == 1 and why in result.output and SECRET not in result.output
        assert "Traceback" not in result.output


def test_records_go_to_a_dynamodb_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink dynamodb-local writes to the endpoint that is named, reads back what is there, and removes its table."""
    with DynamoDbServer() as dynamodb:
        monkeypatch.setenv(ENDPOINT, dynamodb.endpoint)
        with ground(Shape(sink="dynamodb-local", batch_size=50)) as place:
            trial = place.run(LOAD)
            (name,) = dynamodb.client().list_tables()["TableNames"]
            assert dynamodb.client().scan(TableName=name, Select="COUNT")["Count"] >= 100
        assert trial.verdict.is_well and trial.verdict.keys == 100
        assert [one.stage for one in trial.stages][-1] == "committed"
        assert dynamodb.client().list_tables()["TableNames"] == []


def test_a_function_in_aws_is_watched_by_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sink aws the engine invokes the deployed function; lag and verdict are what the table itself shows."""
    with DynamoDbServer() as dynamodb:
        dynamodb.create_table("carts")
        environment = {**sandbox_environment(dynamodb_endpoint=dynamodb.endpoint), "DYNAMO_TABLE": "carts"}
        spec = FunctionSpec("to-carts", "lambdas.dynamodb.handler:handler", environment=environment)
        with LambdaRuntime([spec]) as runtime:
            both = sandbox_environment(lambda_endpoint=runtime.endpoint, dynamodb_endpoint=dynamodb.endpoint)
            for name, value in {**both, FUNCTION: "to-carts", AWS_TABLE: "carts"}.items():
                monkeypatch.setenv(name, value)
            with ground(Shape(sink="aws", batch_size=50)) as place:
                assert not place.rig.runtime_pid
                trial = place.run(LOAD)
    assert trial.verdict.is_well and trial.verdict.keys == 100 and not trial.missing
    assert [one.stage for one in trial.stages] == ["acknowledged", "committed"]
    assert trial.lag.count > 5 and trial.lag.p50_ms > 0


def test_sinks_say_what_they_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sink without its variables, or with nobody behind them, is one clear error."""
    for name, variable in (("dynamodb-local", ENDPOINT), ("aws", FUNCTION)):
        monkeypatch.delenv(variable, raising=False)
        result = CliRunner().invoke(main, ["steady", "--sink", name])
        assert result.exit_code == 1 and variable in result.output
    for name, value in sandbox_environment(dynamodb_endpoint="http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SinkError, match=AWS_TABLE), sink("aws", {FUNCTION: "f", AWS_TABLE: "t"}):
        pass
    with pytest.raises(SinkError, match=ENDPOINT), sink("dynamodb-local", {ENDPOINT: "http://127.0.0.1:1"}):
        pass


def test_a_recorded_trace_can_be_sent_again(server: ValkeyServer, tmp_path: Path) -> None:
    """What is recorded of a server are the moments of its changes, as a load takes them; one that is silent is told."""
    result = CliRunner().invoke(record_main, ["--seconds", "0.1", "--file", str(tmp_path / "none.txt")])
    assert result.exit_code == 1 and "has no E" in result.output
    client_of(server).config_set("notify-keyspace-events", "Eh")
    with pytest.raises(SenderFailed, match="NOAUTH"):
        drive(server.port, Load(Arrivals(rate_per_s=200.0), seconds=0.1), tmp_path)
    path = tmp_path / "trace.txt"
    with Driver(named_server(os.environ).redis, Load(Arrivals(rate_per_s=200.0), seconds=3.0), tmp_path) as driver:
        result = CliRunner().invoke(record_main, ["--seconds", "1", "--file", str(path)])
        driver.join()
    assert result.exit_code == 0, result.output
    offsets = read_trace(str(path), 60.0)
    assert 50 < len(offsets) <= 220
    assert len(lay_out(Load(Arrivals("trace", trace_file=str(path)), seconds=60.0))) == len(offsets)


def test_the_load_goes_over_tls(tmp_path: Path) -> None:
    """A load, its answers and the look at the keys go through TLS as well."""
    certificates = make_certificates(tmp_path)
    with ValkeyServer() as server, tls_in_front_of(server.port, certificates) as port:
        settings = RedisSettings(url=f"rediss://127.0.0.1:{port}", tls_ca_file=str(certificates.authority))
        load = Load(Arrivals(rate_per_s=5_000.0), Keyspace(100), Mix(fields=3, value_bytes=5_000), 1.0)
        sent = drive(settings, load, tmp_path)
        assert len(sent.plan) == 5_000 and in_redis(settings, sent.plan) == in_redis(server.port, sent.plan)


def test_a_server_that_is_not_there_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole suite looks at the server of REDIS_URL before it measures anything."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("benchmarks.__main__.measure_all", lambda *_: pytest.fail("it has begun"))
    result = CliRunner().invoke(bench_main, ["--quick"])
    assert result.exit_code == 1 and "cannot connect to 127.0.0.1:1" in result.output
