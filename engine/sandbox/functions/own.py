"""A function of the user's own, as the command line names it: NAME=module:handler, or NAME=file.py:handler."""

from __future__ import annotations

import os
from pathlib import Path

from engine.sandbox.errors import SandboxError
from engine.sandbox.functions.spec import FunctionSpec

FORMS = "as in carts=my_function:handler, or carts=path/to/my_function.py:handler"


def own_function(text: str, table: str, folder: Path) -> FunctionSpec:
    """Return the function, which is imported from ``folder`` or its file's, and anew when a file of it changes.

    Raises `SandboxError`.
    """
    name, has_name, handler = text.partition("=")
    module, has_handler, function = handler.rpartition(":")
    if not has_name or not has_handler or not module:
        raise SandboxError(f"--function {text!r} does not say what to run", hint=FORMS)
    if module.endswith(".py"):
        file = folder / module
        if not file.is_file():
            raise SandboxError(f"function {name}: the file {file} does not exist", hint=FORMS)
        folder, module = file.parent, file.stem
    path = [str(folder.absolute()), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = {
        "DYNAMO_TABLE": table,
        "PYTHONPATH": os.pathsep.join(path),
        # Two edits within a second may leave a compiled file that looks as if it were right.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return FunctionSpec(name, f"{module}:{function}", environment=environment, reloads=True)
