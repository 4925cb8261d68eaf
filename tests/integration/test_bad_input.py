from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.runtime import FunctionSpec
from engine.sandbox.stack import sandbox_environment
from tests.support import ROUTE, PathUnderTest, whole_path


def start(path: PathUnderTest, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run ``engine start`` to its end; assert that it says one thing, with no traceback, and leaves nothing running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "start", "--config", str(path.config), *arguments],
        env={**path.environment, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=path.folder,
        start_new_session=True,
    )
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert not [other for other in psutil.pids() if _session(other) == process.pid]
    return process.returncode, said


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def test_an_unreachable_server(tmp_path: Path) -> None:
    """Nobody at the address: its name, and where to look."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        code, said = start(path, "--redis-url", "redis://127.0.0.1:1/0")
        assert code == 1
        assert "127.0.0.1:1" in said
        assert "redis.url" in said


def test_a_wrong_password(tmp_path: Path) -> None:
    """The refusal is told with the remedy, and neither password is."""
    with whole_path(tmp_path, server_config={"requirepass": "right-secret"}) as path:
        path.write_config(ROUTE)
        code, said = start(path, environment={"ENGINE_REDIS_PASSWORD": "wrong-secret"})
        assert code in {1, 2}
        assert "password" in said.lower()
        assert "secret" not in said
        code, said = start(path)
        assert code in {1, 2}
        assert "ENGINE_REDIS_PASSWORD" in said


def test_the_right_password_from_a_file(tmp_path: Path) -> None:
    """A user and a password in files are used, and no process title shows them."""
    user = "engine on >right-secret ~* &* +@all"
    with whole_path(tmp_path, server_config={"requirepass": "other", "user": user}) as path:
        (tmp_path / "password").write_text("right-secret\n")
        path.write_config(ROUTE)
        path.environment.update(ENGINE_REDIS_USERNAME="engine", ENGINE_REDIS_PASSWORD_FILE=str(tmp_path / "password"))
        path.start()
        assert path.engine is not None
        family = [path.engine.pid, *(c.pid for c in psutil.Process(path.engine.pid).children(recursive=True))]
        assert not [pid for pid in family if "secret" in " ".join(psutil.Process(pid).cmdline())]
        assert path.stop() == 0
        assert "secret" not in path.log()


def test_notifications_that_may_not_be_set(tmp_path: Path) -> None:
    """Notifications are off and the engine may not set them: the exact flags, and what to run."""
    with whole_path(tmp_path) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "accept"\n')
        code, said = start(path, environment={"ENGINE_REDIS_SET_NOTIFICATIONS": "false"})
        assert code == 1
        assert "notify-keyspace-events" in said
        assert "Kh" in said
        assert path.client.config_get("notify-keyspace-events")["notify-keyspace-events"] == ""


def test_flags_are_merged_and_never_overwritten(tmp_path: Path) -> None:
    """What others rely on stays set; what the routes need is added."""
    with whole_path(tmp_path, server_config={"notify-keyspace-events": "Ex"}) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "accept"\n')
        path.start()
        flags = path.client.config_get("notify-keyspace-events")["notify-keyspace-events"]
        assert set("ExKh") <= set(flags)
        assert path.stop() == 0


def test_a_function_that_does_not_exist(tmp_path: Path) -> None:
    """The start fails with the function's name."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE.replace('"accept"', '"absent"'))
        code, said = start(path)
        assert code in {1, 2}
        assert "absent" in said


def test_a_table_that_does_not_exist(tmp_path: Path) -> None:
    """The function is asked before the start whether it can write; what it says of its table is told."""
    with DynamoDbServer() as dynamodb:
        environment = {**sandbox_environment(dynamodb_endpoint=dynamodb.endpoint), "DYNAMO_TABLE": "absent"}
        spec = FunctionSpec("dynamodb", "lambdas.dynamodb.handler:handler", environment=environment)
        with whole_path(tmp_path, functions=(spec,)) as path:
            path.write_config(ROUTE.replace('"accept"', '"dynamodb"'))
            code, said = start(path)
            assert code == 1
            assert "no table absent" in said
            assert "DYNAMO_TABLE" in said


def test_a_function_that_is_only_ill_does_not_hinder_the_start(tmp_path: Path) -> None:
    """A function error that may pass is no reason not to capture."""
    with whole_path(tmp_path, functions=(FunctionSpec("broken", "tests.functions:broken"),)) as path:
        path.write_config(ROUTE.replace('"accept"', '"broken"'))
        path.start()
        assert path.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--shards", "0"), "shards"), (("--shards", "100000"), "64"), (("--invokers", "0"), "invokers")],
)
def test_counts_beyond_what_makes_sense(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """A shard or invoker count out of range is wrong usage, with the range."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        code, said = start(path, *arguments)
        assert code == 2
        assert words in said


def test_a_bad_route_and_everything_else_at_once(tmp_path: Path) -> None:
    """All problems of a file are told at once, each with its place."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE + 'batch_size = 0\nbatchsize = 7\n[[routes]]\nname = "all"\nfunction = "!"\n')
        code, said = start(path)
        assert code == 2
        assert "batch_size" in said
        assert "batchsize" in said
        assert '"all"' in said or "all" in said
        assert said.count("engine.toml") >= 3


def test_broken_toml(tmp_path: Path) -> None:
    """A syntax error is told with its line."""
    with whole_path(tmp_path) as path:
        path.config.write_text("[redis\nurl = 1\n")
        code, said = start(path)
        assert code == 2
        assert "engine.toml:1:7" in said


def test_a_second_engine_on_one_status_file(tmp_path: Path) -> None:
    """Two engines that would overwrite each other's status: the second is refused, the first goes on."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        code, said = start(path)
        assert code == 1
        assert "status" in said
        assert path.stop() == 0


def test_a_second_engine_on_one_checkpoint(tmp_path: Path) -> None:
    """Two engines that would overwrite each other's checkpoint: the second is refused, and told the setting."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        other = path.config.read_text().replace("status.json", "other.json")
        path.config.write_text(other)
        code, said = start(path)
        assert code == 1
        assert "supervision.checkpoint_file" in said
        assert "Traceback" not in said
        assert path.stop() == 0


def test_a_check_refuses_the_paths_that_a_start_refuses(tmp_path: Path) -> None:
    """A path to another program's file: both exit 1 with the setting's name, and write nothing beside it."""
    foreign = tmp_path / "elsewhere" / "passwd"
    foreign.parent.mkdir()
    foreign.write_text("root:x:0:0\n")
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        good = path.config.read_text()
        for name in ("backlog_folder", "dead_letter_file", "checkpoint_file", "status_file"):
            lines = (f'{name} = "{foreign}"' if line.startswith(f"{name} =") else line for line in good.splitlines())
            path.config.write_text("\n".join(lines))
            code, said = start(path)
            assert code == 1 and name in said and "not" in said
            command = [sys.executable, "-m", "engine", "check", "--config", str(path.config)]
            done = subprocess.run(command, env=path.environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 1 and name in done.stdout
            assert list(foreign.parent.iterdir()) == [foreign] and foreign.read_text() == "root:x:0:0\n"
