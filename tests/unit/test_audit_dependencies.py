"""The audit of dependencies: a vulnerability fails CI, a service that can't be asked does not, and both are told."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.parts import audit_dependencies
from tests.parts.audit_dependencies import UNCHECKED, VULNERABLE, audit, main

CLEAN = {"name": "click", "version": "8.1", "vulns": []}
BAD = {"name": "urllib3", "version": "1.0", "vulns": [{"id": "PYSEC-2021-108", "fix_versions": ["1.26.5"]}]}
UNFIXED = {"name": "x", "version": "1", "vulns": [{"id": "GHSA-1", "fix_versions": []}]}
UNKNOWN = {"name": "y", "skip_reason": "Dependency not found on PyPI and could not be audited: y (1)"}


def stand_in(dependencies: list[dict[str, Any]] | None, code: int = 0, text: str = "") -> list[str]:
    """Return a command that prints as pip-audit does, and exits so."""
    said = text if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
    return [
        sys.executable,
        "-c",
        f"import sys; print({said!r}); print('the last words', file=sys.stderr); sys.exit({code})",
    ]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (stand_in([CLEAN]), 0, "1 dependencies have no known vulnerability"),
        (stand_in([CLEAN, UNKNOWN]), 0, "1 are unknown to the service"),
        (stand_in([CLEAN, BAD, UNKNOWN], 1), VULNERABLE, "urllib3 1.0: PYSEC-2021-108 (fixed in: 1.26.5)"),
        (stand_in([UNFIXED], 1), VULNERABLE, "x 1: GHSA-1 (fixed in: nothing yet)"),
        # What a mirror without the service does: success, and nothing was looked at.
        (stand_in([UNKNOWN, UNKNOWN]), UNCHECKED, "the service knows none of them"),
        (stand_in([]), UNCHECKED, "the service knows none of them"),
        (stand_in(None, 1, "not JSON"), UNCHECKED, "the last words"),
        (stand_in(None, 1, '{"dependencies": null}'), UNCHECKED, "the last words"),
        ([sys.executable, "-c", "import time; time.sleep(600)"], UNCHECKED, "no answer within 0.2 s"),
    ],
)
def test_what_an_audit_came_to(command: list[str], code: int, words: str) -> None:
    """A vulnerability is 1, whatever else is known; nothing checked is 3, never success."""
    verdict = audit(command, 0.2 if "600" in command[-1] else 60)
    assert verdict.code == code
    assert words in "\n".join(verdict.lines)


def test_ci_forgives_a_service_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --if-reachable what could not be checked is said and forgiven; a vulnerability is not."""
    for dependencies, codes in (([UNKNOWN], (UNCHECKED, 0)), ([BAD], (VULNERABLE, VULNERABLE)), ([CLEAN], (0, 0))):
        monkeypatch.setattr(audit_dependencies, "COMMAND", stand_in(dependencies))
        assert (main([]), main(["--if-reachable"])) == codes
    assert "no dependency was checked" in capsys.readouterr().err
