"""`engine init` and `engine completion`: for who has just arrived."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import cli, run_command
from engine.settings.file import load_settings
from engine.settings.first import Answers, first_settings, route_name_of

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:carts"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an environment that says nothing to the engine."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ENGINE_", "REDIS_", "AWS_", "META_MAP", "SUPPORTED_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_what_init_writes_is_taken(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file says what the options said, loads without a problem, and the next commands are named."""
    options = ["--keys", "cart:*", "--keys", "order:[0-9]*", "--destination", "dynamodb://carts", "--whole"]
    assert run_command(["init", "--function", ARN, "--redis-url", "rediss://cache.example:6380/2", *options]) == 0
    settings = load_settings(str(home / "engine.toml"), {"HOME": "/"}, {})
    (route,) = settings.routes
    assert (route.name, route.function, route.keys) == ("carts", ARN, ("cart:*", "order:[0-9]*"))
    assert (route.events, route.starting_position) == (("changes",), "TRIM_HORIZON")
    assert route.destination == "dynamodb://carts"
    assert settings.redis.url == "rediss://cache.example:6380/2"
    said = capsys.readouterr().out
    assert "engine check" in said and "engine start" in said


def test_init_never_overwrites(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there stays as it is, byte for byte, also one that a broken link names."""
    (home / "engine.toml").write_text("mine")
    assert run_command(["init", "--function", ARN]) == 1
    assert (home / "engine.toml").read_text() == "mine"
    (home / "link.toml").symlink_to(home / "nowhere.toml")
    assert run_command(["init", "--function", ARN, "--config", "link.toml"]) == 1
    assert not (home / "nowhere.toml").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("stays as it is" in line for line in lines)


def test_init_writes_no_password(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A password in the URL is not written, nor shown; its place is named."""
    assert run_command(["init", "--function", ARN, "--redis-url", "redis://app:hunter2@cache.example:6379/0"]) == 0
    text = (home / "engine.toml").read_text()
    said = capsys.readouterr()
    assert "hunter2" not in text + said.out + said.err
    assert tomllib.loads(text)["redis"] == {"url": "redis://cache.example:6379/0", "username": "app"}
    assert "ENGINE_REDIS_PASSWORD" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--function", "carts"], "--region"),
        (["--function", "no function!", "--region", "eu-west-1"], "is not a function's name or ARN"),
        (["--function", ARN, "--keys", "cart:["], "has a [ without its ]"),
        (["--function", ARN, "--redis-url", "http://cache"], "redis.url"),
        (["--function", ARN, "--destination", "mysql://x"], "destination"),
        ([], "--function"),
    ],
)
def test_init_refuses_what_a_start_would_refuse(
    home: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong answers exit with 2 and name the file that would have been, or the option; nothing is written."""
    assert run_command(["init", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "engine-init-" not in said
    assert not list(home.iterdir())


def test_init_asks_on_a_terminal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal each answer that no option gave is asked for, with its default."""
    runner = CliRunner()
    monkeypatch.setattr("engine.commands.beginning._is_terminal", lambda: True)
    answers = ["redis://10.0.0.1:6379/0", "carts", "", "cart:* order:*", "eu-west-1", "y"]
    result = runner.invoke(cli, ["init"], input="\n".join(answers) + "\n", standalone_mode=False)
    assert result.exception is None, result.output
    settings = load_settings(str(home / "engine.toml"), {"HOME": "/"}, {})
    assert settings.redis.url == "redis://10.0.0.1:6379/0"
    assert settings.aws.region == "eu-west-1"
    (route,) = settings.routes
    assert (route.name, route.keys, route.starting_position) == ("carts", ("cart:*", "order:*"), "TRIM_HORIZON")


def test_names_are_quoted() -> None:
    """Whatever an answer holds, the file is TOML and says just that."""
    evil = '"]\n[redis]\npassword = "x\x7f\\'
    document = tomllib.loads(first_settings(Answers("redis://h", "f", evil, (evil,), region=evil)).text)
    assert document["routes"][0]["name"] == evil
    assert document["routes"][0]["keys"] == [evil]
    assert document["aws"]["region"] == evil
    assert "password" not in document["redis"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("carts", "carts"),
        ("carts:live", "carts"),
        (ARN, "carts"),
        (f"{ARN}:live", "carts"),
        ("arn:aws:sqs:eu-west-1:123456789012:carts.fifo", "carts.fifo"),
        ("arn:aws:kinesis:eu-west-1:123456789012:stream/carts", "carts"),
    ],
)
def test_a_route_is_called_like_its_function(function: str, name: str) -> None:
    assert route_name_of(function) == name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_its_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell gets a script that asks the command itself what may come next."""
    assert run_command(["completion", shell]) == 0
    assert f"_ENGINE_COMPLETE={shell}_complete" in capsys.readouterr().out


def completed(words: str, number: int, folder: Path) -> list[str]:
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(number), "_ENGINE_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "engine"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion_knows_commands_options_and_routes(home: Path) -> None:
    """A shell is told the commands, a command's options, and the names of the routes in the settings file."""
    (home / "engine.toml").write_text('[[routes]]\nname = "carts"\nfunction = "f"\n')
    assert set(cli.commands) == set(completed("engine ", 1, home))
    assert "--redis-url" in completed("engine start --r", 2, home)
    assert completed("engine deletions accept ", 3, home) == ["carts"]
    assert completed("engine routes ", 2, home) == ["test"]


@pytest.mark.parametrize("name", sorted(set(cli.commands)))
def test_every_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help ends with commands to copy, whose options exist."""
    command = cli.commands[name]
    inner = {(name, sub): other for sub, other in getattr(command, "commands", {}).items()}
    for path, one in (inner or {(name,): command}).items():
        assert run_command([*path, "--help"]) == 0
        _, _, shown = capsys.readouterr().out.partition("Examples:")
        lines = [line.split("#")[0] for line in shown.splitlines() if f"engine {' '.join(path)}" in line]
        assert lines, name
        options = {option for parameter in one.params for option in parameter.opts} | {"-c"}
        for line in lines:
            assert {word for word in line.split() if word.startswith("--")} <= options, line
