"""What tests start is the tree under test, wherever it is started, and whichever is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.sandbox.demo import clean_environment
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.stack import child_environment, sandbox_environment

ROOT = Path(__file__).parents[2]

HANDLER = """
import engine, lambdas

def where(event, context):
    return [engine.__file__, lambdas.__file__]
"""


def environment_of_the_path() -> dict[str, str]:
    return clean_environment(child_environment(os.environ, sandbox_environment()))


@pytest.mark.parametrize("environment", [lambda: dict(os.environ), environment_of_the_path], ids=["ours", "the path's"])
def test_a_process_in_another_folder(tmp_path: Path, environment: Callable[[], dict[str, str]]) -> None:
    """A command that a test starts elsewhere runs this tree's engine, not one that is installed."""
    code = "import engine, lambdas, tests; print(engine.__file__, lambdas.__file__, tests.__path__[0])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    places = [ROOT / "engine" / "__init__.py", ROOT / "lambdas" / "__init__.py", ROOT / "tests"]
    assert done.stdout.split() == [str(place) for place in places]


def test_a_function_with_a_path_of_its_own(tmp_path: Path) -> None:
    """A function of the sandbox that brings modules along finds them, and this tree's functions besides."""
    (tmp_path / "which_tree.py").write_text(HANDLER)
    spec = FunctionSpec("where", "which_tree:where", environment={"PYTHONPATH": str(tmp_path)})
    with LambdaRuntime([spec]) as runtime:
        answer = runtime.client().invoke(FunctionName="where", Payload=b"{}")
        places = json.loads(answer["Payload"].read())
    assert places == [str(ROOT / "engine" / "__init__.py"), str(ROOT / "lambdas" / "__init__.py")]
