"""Where each setting of the connection came from is said before anything is connected to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

NOBODY, NOBODY_ELSE = "redis://127.0.0.1:1/0", "redis://127.0.0.1:2/0"
FILE = f"""\
[redis]
url = "{NOBODY}"
username = "reader"
[aws]
lambda_endpoint_url = "http://127.0.0.1:1"
[supervision]
state_folder = "state"
[[routes]]
name = "carts"
function = "arn:aws:lambda:eu-west-1:123456789012:function:carts"
"""
BY_REDIS_URL = "(environment: REDIS_URL, over engine.toml: redis.url)"


def engine(folder: Path, *arguments: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    foreign = ("ENGINE_", "AWS_", "REDIS_", "META_MAP")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", **variables}
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


CASES = [
    pytest.param({}, (), "redis.url", f"{NOBODY} (engine.toml: redis.url)", id="the file"),
    pytest.param({"REDIS_URL": NOBODY_ELSE}, (), "redis.url", f"{NOBODY_ELSE} {BY_REDIS_URL}", id="REDIS_URL"),
    pytest.param(
        {"REDIS_URL": NOBODY},
        ("--redis-url", NOBODY_ELSE),
        "redis.url",
        f"{NOBODY_ELSE} (--redis-url, over environment: REDIS_URL)",
        id="a flag",
    ),
    pytest.param(
        {"REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"},
        (),
        "redis.password",
        "set (environment: REDIS_URL)",
        id="a password in REDIS_URL",
    ),
    pytest.param({}, (), "aws.region", "eu-west-1 (the functions' ARNs)", id="a region in an ARN"),
    pytest.param(
        {"AWS_REGION": "eu-west-1"}, (), "aws.region", "eu-west-1 (environment: AWS_REGION)", id="AWS's own variable"
    ),
]


@pytest.mark.parametrize(("variables", "flags", "key", "expected"), CASES)
def test_check_and_start_say_where_the_connection_comes_from(
    tmp_path: Path, variables: Mapping[str, str], flags: tuple[str, ...], key: str, expected: str
) -> None:
    """A variable of the environment that overrides the file is named, by a check and by a start; no secret is shown."""
    (tmp_path / "engine.toml").write_text(FILE)
    checked = engine(tmp_path, "check", "--json", *flags, variables=variables)
    findings = {one["place"]: one["message"] for one in json.loads(checked.stdout)["findings"]}
    assert findings[key] == expected
    variables = {**variables, "ENGINE_LOG_FORMAT": "json"}
    started = engine(tmp_path, "start", *flags, variables=variables)
    said = [json.loads(line) for line in started.stderr.splitlines() if line.startswith("{")]
    assert [one[key] for one in said if one["event"] == "connection"] == [expected]
    assert "hunter2" not in checked.stdout + checked.stderr + started.stderr


def test_a_default_is_said_too(tmp_path: Path) -> None:
    """Without any setting of the server, that the default is tried is said."""
    (tmp_path / "engine.toml").write_text(FILE.replace(f'url = "{NOBODY}"\n', ""))
    checked = engine(tmp_path, "check", "--json", variables={"ENGINE_REDIS_CONNECT_TIMEOUT_MS": "1"})
    findings = {one["place"]: one["message"] for one in json.loads(checked.stdout)["findings"]}
    assert findings["redis.url"] == "redis://127.0.0.1:6379/0 (default)"
    assert findings["redis.username"] == "reader (engine.toml: redis.username)"
