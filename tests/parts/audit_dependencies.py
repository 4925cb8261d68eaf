#!/usr/bin/env python3
"""Checks the installed dependencies against known vulnerabilities, by pip-audit, and says which were checked at all.

pip-audit succeeds too where the service knows none of the packages, as behind a mirror without it. Exits with 1 where a
vulnerability is known; with 3 where nothing could be checked, or, with ``--if-reachable``, with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

COMMAND = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
LIMIT_S = 300
VULNERABLE, UNCHECKED = 1, 3


class Verdict(NamedTuple):
    """What an audit came to: ``code`` is 0 where something was checked, and nothing found."""

    code: int
    lines: list[str]


def judge(output: str, errors: str) -> Verdict:
    """Return what pip-audit's JSON says; without any it has failed, and its last line says why."""
    try:
        dependencies = list(json.loads(output)["dependencies"])
    except (ValueError, LookupError, TypeError):
        why = (errors.strip().splitlines() or ["no answer"])[-1]
        return Verdict(UNCHECKED, [f"no dependency was checked: {why[:300]}"])
    checked = [one for one in dependencies if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {found['id']} (fixed in: {', '.join(found['fix_versions']) or 'nothing yet'})"
        for one in checked
        for found in one["vulns"]
    ]
    if lines:
        return Verdict(VULNERABLE, lines)
    if not checked:
        return Verdict(UNCHECKED, ["no dependency was checked: the service knows none of them"])
    unknown = len(dependencies) - len(checked)
    told = f", {unknown} are unknown to the service" if unknown else ""
    return Verdict(0, [f"{len(checked)} dependencies have no known vulnerability{told}"])


def audit(command: Sequence[str], limit_s: float = LIMIT_S) -> Verdict:
    """Run pip-audit, and judge what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(UNCHECKED, [f"no dependency was checked: no answer within {limit_s:g} s"])
    return judge(done.stdout, done.stderr)


def main(arguments: Sequence[str]) -> int:
    """Audit; ``--if-reachable`` forgives a service that can't be asked, all else goes to pip-audit."""
    forgives = "--if-reachable" in arguments
    verdict = audit([*COMMAND, *(one for one in arguments if one != "--if-reachable")])
    print("\n".join(verdict.lines), file=sys.stderr if verdict.code else sys.stdout)
    return 0 if forgives and verdict.code == UNCHECKED else verdict.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
