"""What all tests have in common."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

# What a test starts in another folder is this tree, not one that is installed.
_paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _paths))

# Nor does one that says nothing of its state find that of an engine which runs here.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# How long an example takes is the machine's affair: speed belongs to benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
