"""A function of one's own in the sandbox: invoked by an engine, heard, and imported anew when it is edited."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from engine.cli import run_command
from engine.sandbox.errors import SandboxError
from engine.sandbox.functions.own import own_function
from engine.sandbox.functions.sources import Sources
from engine.sandbox.valkey import ValkeyServer
from tests.support import WAIT_S, wait_for

FUNCTION = """
from words import WORD

def handler(event, context):
    for record in event["records"]:
        print(WORD, record["id"], record["body"])
"""


class Running:
    """A sandbox in a process of its own, and all that it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert process.stdout is not None
        self.told: dict[str, Any] = json.loads(process.stdout.readline() or "{}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))

    def close(self) -> None:
        """Read to the end of a process that has ended."""
        self._reader.join(WAIT_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)


@contextmanager
def sandbox(folder: Path, *arguments: str) -> Iterator[Running]:
    """Run ``engine sandbox`` in this folder; it has drained and ended afterwards, and all of its processes have."""
    ports = ["--redis-port", "0", "--dynamodb-port", "0", "--lambda-port", "0"]
    command = [sys.executable, "-m", "engine", "sandbox", *ports, "--json", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ENGINE_", "REDIS_"))}
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process)
    try:
        assert running.told, "".join(running.said)
        children = psutil.Process(process.pid).children(recursive=True)
        yield running
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0, "".join(running.said)
        wait_for(lambda: not any(child.is_running() for child in children), "nothing is left running")
    finally:
        process.kill()
        process.wait()
        running.close()


def engine(running: Running, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as in another terminal that has the printed variables."""
    command = [sys.executable, "-m", "engine", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **running.told["environment"]}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S)


def test_a_function_of_ones_own_is_run_heard_and_imported_anew(tmp_path: Path) -> None:
    """Every change goes to the function; its prints are shown; an edit counts from the next invocation on, also one of
    a file that it imports, and one that breaks it and is mended.
    """
    (tmp_path / "words.py").write_text('WORD = "first"\n')
    (tmp_path / "mine.py").write_text(FUNCTION)
    with sandbox(tmp_path, "--function", "carts=mine.py:handler") as running:
        client = redis.Redis.from_url(running.told["redis_url"])
        client.hset("cart:1", "tea", 2)
        wait_for(lambda: running.heard('[carts] first cart:1 {"tea":"2"}'), "the function's print")
        (tmp_path / "words.py").write_text('WORD = "second"\n')
        wait_for(lambda: running.heard("[carts] words.py changed: imported again"), "the edit is noticed")
        client.hset("cart:2", "tea", 2)
        wait_for(lambda: running.heard("[carts] second cart:2"), "the edited function")
        (tmp_path / "mine.py").write_text(FUNCTION + "this is wrong\n")
        wait_for(lambda: running.heard("mine.py changed, and mine:handler does not import"), "the broken edit")
        client.hset("cart:3", "tea", 2)
        (tmp_path / "mine.py").write_text(FUNCTION.replace("print(WORD", "print('third'"))
        wait_for(lambda: running.heard("[carts] third cart:3"), "what came meanwhile, once it is mended")
        shown = engine(running, tmp_path, "status", "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["routes"][0]["name"] == "carts"


def test_on_a_server_and_by_routes_of_ones_own(tmp_path: Path) -> None:
    """With --redis-url that server is captured, by the routes of engine.toml; it is left as it is at the end."""
    (tmp_path / "words.py").write_text('WORD = "got"\n')
    (tmp_path / "mine.py").write_text(FUNCTION)
    (tmp_path / "engine.toml").write_text(
        '[supervision]\nstate_folder = "precious"\n[aws]\nregion = "eu-west-1"\n'
        '[[routes]]\nname = "r"\nfunction = "carts"\nkeys = ["cart:*"]\nevents = ["changes"]\n'
    )
    with ValkeyServer() as server:
        client = redis.Redis(port=server.port)
        with sandbox(tmp_path, "--function", "carts=mine:handler", "--redis-url", server.url) as running:
            client.hset("other:1", "n", 1)
            client.hset("cart:1", "n", 1)
            wait_for(lambda: running.heard("[carts] got cart:1"), "the change of a key of the route")
            assert not running.heard("other:1")
            assert engine(running, tmp_path, "routes", "test", "cart:1").returncode == 0
        assert client.hgetall("cart:1") == {b"n": b"1"}
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("text", ["carts", "carts=mine", "carts=:handler", "carts=nowhere.py:handler", "=mine:handler"])
def test_what_is_no_function(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A --function that says too little, or names no file, is one line with how to write it."""
    with pytest.raises(SandboxError):
        own_function(text, "t", tmp_path)
    assert run_command(["sandbox", "--function", text]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_handler_that_does_not_import(tmp_path: Path) -> None:
    """A function that can't be imported ends the sandbox with what is wrong."""
    (tmp_path / "mine.py").write_text("import nowhere_to_be_found\n")
    ports = ["--redis-port", "0", "--dynamodb-port", "0", "--lambda-port", "0"]
    command = [sys.executable, "-m", "engine", "sandbox", *ports, "--function", "carts=mine.py:handler"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 1
    assert "nowhere_to_be_found" in done.stderr.splitlines()[-1]


def test_files_that_change_are_noticed(tmp_path: Path) -> None:
    """A file that is edited, removed or comes back has changed, once each time."""
    file = tmp_path / "mine.py"
    file.write_text("a = 1")
    sources = Sources()
    sources.note([str(file)])
    assert sources.changed() == []
    file.write_text("a = 12")
    assert sources.changed() == [str(file)]
    assert sources.changed() == []
    file.unlink()
    assert sources.changed() == [str(file)]
    file.write_text("a = 3")
    assert sources.changed() == [str(file)]
