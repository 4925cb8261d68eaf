"""What all tests have in common."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

# What a test starts in another folder is this tree, not one that is installed.
_paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _paths))

# How long an example takes is the machine's affair: speed belongs to benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
