"""`engine check` on running parts: what it measures, and that it says so as lines to act on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import redis
from moto.server import ThreadedMotoServer

from engine.settings.file import load_settings
from engine.supervision.doctor.functions import function_findings
from tests.support import ROUTE, PathUnderTest, whole_path


def check(path: PathUnderTest) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "engine", "check", "--json", "--config", str(path.config)]
    done = subprocess.run(command, env=path.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


@contextmanager
def writing(client: Any) -> Iterator[None]:
    """Change keys without a pause while the block runs."""
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            pipe = client.pipeline(transaction=False)
            for _ in range(200):
                number += 1
                pipe.hset(f"{'key' * 20}:{number}", "n", number)
            pipe.execute()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def test_the_rate_is_measured_and_judged_by_the_servers_limits(tmp_path: Path) -> None:
    """While keys change, a check says how long a stall a subscription survives; where that is short, what to set."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.client.config_set("notify-keyspace-events", "KA")
        path.client.config_set("client-output-buffer-limit", "pubsub 100kb 50kb 1")
        with writing(path.client):
            found = check(path)
        (output,) = [one for one in found if "of stall" in one["message"]]
        assert output["verdict"] == "note" and "CONFIG SET client-output-buffer-limit" in output["hint"]
        said = {(one["place"], one["verdict"]) for one in found}
        assert {("server", "ok"), ("host", "ok")} <= said
        messages = " ".join(one["message"] for one in found)
        for words in ("open files are allowed", "MiB used", "a primary", "the clock of the server", "GiB free"):
            assert words in messages, words


def test_the_functions_own_settings_are_looked_at(tmp_path: Path, monkeypatch: Any) -> None:
    """A function that may run too long, and whose reserved concurrency is too little, gets both said."""
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        options: dict[str, Any] = {"region_name": "us-east-1", "endpoint_url": endpoint}
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        role = boto3.client("iam", **options).create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        client = boto3.client("lambda", **options)
        client.create_function(
            FunctionName="carts", Runtime="python3.11", Role=role, Handler="a.b", Code={"ZipFile": b""}, Timeout=900
        )
        client.put_function_concurrency(FunctionName="carts", ReservedConcurrentExecutions=1)
        file = tmp_path / "engine.toml"
        file.write_text(
            f'[aws]\nregion = "us-east-1"\nlambda_endpoint_url = "{endpoint}"\n'
            '[[routes]]\nname = "carts"\nfunction = "carts"\n[[routes]]\nname = "x"\nfunction = "absent"\n'
        )
        settings = load_settings(str(file), {"HOME": "/"}, {})
        found = [(one.verdict.value, one.problem.message) for one in function_findings(settings, settings.routes)]
    finally:
        server.stop()
    assert any(verdict == "note" and "carts may run for 900 s" in message for verdict, message in found), found
    assert any(verdict == "note" and "carts: 1 reserved concurrency" in message for verdict, message in found), found
    unknown = "absent are unknown (ResourceNotFoundException)"
    assert "ok" in {verdict for verdict, message in found if unknown in message}, found


def test_all_captured_databases_are_measured(tmp_path: Path) -> None:
    """Changes of a second database count for the rate."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.client.config_set("notify-keyspace-events", "KA")
        text = path.config.read_text()
        path.config.write_text(text.replace("[redis]\n", "[redis]\ndatabases = [0, 1]\n"))
        with writing(redis.Redis(port=path.server.port, db=1)):
            found = check(path)
        assert any("of stall" in one["message"] for one in found), found
