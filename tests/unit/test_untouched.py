from __future__ import annotations

import pytest

from engine.redis.connection import may_be_untouched


@pytest.mark.parametrize(
    ("server", "version", "mode", "may"),
    [
        ("valkey", "9.1.2", "cluster", True),
        ("valkey", "9.1.2", "standalone", True),
        ("redis", "8.2.3", "standalone", True),
        ("redis", "8.2.3", "cluster", False),
        ("redis", "6.2.5", "standalone", False),
    ],
)
def test_who_is_asked_for_no_touch(server: str, version: str, mode: str, may: bool) -> None:
    """Reads count as no uses wherever that is known and safe: nodes of Redis clusters crash while slots move."""
    assert may_be_untouched({"server": server, "version": version, "mode": mode}) is may
