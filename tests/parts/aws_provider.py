#!/usr/bin/env python3
"""Writes ``tests/deployment/aws_provider.json``: what Terraform's AWS provider takes, of the resources of our module.

The provider itself comes from Terraform's registry alone. The npm package of its bindings, made from its schema, names
every argument, so Terraform need not be there: run this after the module uses another resource (it wants npm).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "@cdktf/provider-aws@21.22.1"
ROOT = Path(__file__).parents[2]
INTO = ROOT / "tests" / "deployment" / "aws_provider.json"
_INTERFACE = re.compile(r"^export interface (\w+)[^{]*\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_ARGUMENT = re.compile(r"#(\w+) \w+#\w+\}(?:(?!readonly).)*readonly \w+(\?)?: (\w+)?", re.DOTALL)
_USED = re.compile(r'^(resource|data) "(aws_\w+)"', re.MULTILINE)


def arguments_of(text: str) -> dict[str, Any]:
    """Return the arguments in a resource's types: name, with a ``!`` if required → those of the block that it is."""
    interfaces = {name: _ARGUMENT.findall(body) for name, body in _INTERFACE.findall(text)}
    (whole,) = [name for name in interfaces if name.endswith("Config") and f"interface {name} extends" in text]

    def within(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for argument, optional, kind in interfaces[name]:
            found[argument if optional else f"{argument}!"] = within(kind) if kind in interfaces else {}
        return found

    return within(whole)


def main() -> None:
    """Fetch the package, and write what the module's resources take."""
    module = "".join(path.read_text() for path in sorted((ROOT / "config" / "terraform").glob("*.tf")))
    used = {(kind, name) for kind, name in _USED.findall(module)}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            for kind, name in sorted(used):
                place = ("data-aws-" if kind == "data" else "") + name.removeprefix("aws_").replace("_", "-")
                member = package.extractfile(f"package/lib/{place}/index.d.ts")
                assert member is not None
                text = member.read().decode()
                found[f"{kind}.{name}"] = arguments_of(text)
    version = re.search(r"providers/hashicorp/aws/([\d.]+)/", text)
    assert version is not None
    INTO.write_text(json.dumps({"provider": version[1], "takes": found}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
