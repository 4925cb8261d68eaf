"""The sandbox's Lambda runtime as a process: its start, its log, its end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.sandbox.errors import PortInUse, SandboxError
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from tests.sandbox_functions import HANDLERS, invoke, is_running, poll


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the handlers' module, and the files by which they talk."""
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "sandbox_handlers.py").write_text(HANDLERS)
    return folder


def test_output_goes_to_the_log(folder: Path, capfd: pytest.CaptureFixture[str]):
    """What a handler prints stands in the runtime's output, with the function's name before it."""
    spec = FunctionSpec(
        "talker",
        "sandbox_handlers.about",
        environment={"DYNAMO_TABLE": "t", "SHARED": "", "PYTHONPATH": str(folder)},
    )
    seen: list[str] = []

    def has_spoken() -> bool:
        seen.append(capfd.readouterr().err)
        return "[talker] about to answer\n" in "".join(seen)

    with LambdaRuntime([spec]) as runtime:
        invoke(runtime.client(), "talker", {})
        poll(has_spoken)


def test_handler_that_does_not_import():
    """A handler that is not there keeps the runtime from starting, with one line that says which."""
    runtime = LambdaRuntime([FunctionSpec("lost", "no_such_module:handler")])
    with pytest.raises(SandboxError, match="function lost: handler no_such_module:handler does not import") as caught:
        runtime.start()
    assert "\n" not in str(caught.value)
    assert not runtime.is_running()


def test_port_in_use():
    """A given port that somebody listens on is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        runtime = LambdaRuntime([FunctionSpec("accept", "accept")], port=taken.getsockname()[1])
        with pytest.raises(PortInUse):
            runtime.start()
        assert not runtime.is_running()


def test_stop_ends_busy_workers(folder: Path):
    """A runtime that is stopped while an invocation runs takes its workers with it, and can be started again."""
    environment = {"PYTHONPATH": str(folder)}
    spec = FunctionSpec("busy", "sandbox_handlers:wait", environment=environment)
    runtime = LambdaRuntime([spec]).start()
    workers = psutil.Process(runtime.pid).children(recursive=True)
    assert workers
    event = b'{"touch": "busy", "until": "never"}'
    runtime.client().invoke(FunctionName="busy", InvocationType="Event", Payload=event)
    poll((folder / "busy").exists)
    port = runtime.port
    runtime.stop()
    poll(lambda: not any(is_running(worker.pid) for worker in workers))
    with runtime:
        assert runtime.port == port
        assert runtime.client().get_function(FunctionName="busy")


@pytest.mark.parametrize(
    "options", [{"handler": "nothing"}, {"name": "a b"}, {"concurrency_max": 0}, {"timeout_s": 0.0}]
)
def test_bad_spec(options: dict[str, Any]):
    """A function that makes no sense is refused when it is defined."""
    with pytest.raises(SandboxError):
        FunctionSpec(**({"name": "f", "handler": "m:f"} | options))
