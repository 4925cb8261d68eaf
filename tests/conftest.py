"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is the machine's affair: speed belongs to benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
