"""The site's generator of reference pages, which is a hook and no module of a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "docs" / "reference.py"
_SPEC = importlib.util.spec_from_file_location("docs_reference", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)
