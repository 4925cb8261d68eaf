#!/usr/bin/env python3
"""Gets Lambda's runtime interface emulator for the tests of the real runtime.

AWS ships its binary inside the wheel of the SAM CLI, which is fetched, never installed. Without it those tests are
skipped, each with the reason.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-sam-cli==1.170.0"
PLACE = Path(sys.prefix) / "share" / "aws-lambda-rie"
BINARIES = {
    "x86_64": "6b1e686e62ab2baf5759c412c4864276ef2a88b094fca53ec070637ccba9b9a5",
    "arm64": "ec2e5d09633d853834c008b1ef264bf834b258a94d551d2b2074966494b39a21",
}


def provide() -> str:
    """See to it that the binary is in its place; return "" or why that could not be done."""
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() != "Linux" or machine not in BINARIES:
        return f"there is none for {platform.system()} on {machine}"
    if PLACE.exists() and is_known(PLACE.read_bytes(), machine):
        return ""
    # One of another version is none: the tests would not be skipped, and might fail.
    PLACE.unlink(missing_ok=True)
    return fetch(machine)


def is_known(binary: bytes, machine: str) -> bool:
    """Tell whether this is the binary that the tests were written for."""
    return hashlib.sha256(binary).hexdigest() == BINARIES[machine]


def fetch(machine: str) -> str:
    """Put the binary of the wheel in its place; return "" or why that could not be done."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--dest", folder, WHEEL], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{WHEEL} could not be fetched: {done.stderr.strip()}"
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            binary = archive.read(f"samcli/local/rapid/aws-lambda-rie-{machine}")
    if not is_known(binary, machine):
        return "it is not the one that is known: its digest differs"
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    PLACE.write_bytes(binary)
    PLACE.chmod(0o755)
    return ""


def main() -> int:
    """Fetch the emulator where it is not there yet; never fail: the tests say what they lack."""
    problem = provide()
    print(f"aws-lambda-rie: {problem}; the tests of the real runtime are skipped" if problem else f"{PLACE} is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
