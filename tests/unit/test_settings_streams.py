"""What the settings may say of streams, each mistake with its remedy in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.settings.file import load_settings

ROUTE = '[aws]\nregion = "us-east-1"\n[[routes]]\nname = "r"\nfunction = "f"\n'


def problems(folder: Path, capture: str, more: str = "") -> str:
    """Return all that is wrong with these settings, "" for nothing."""
    file = folder / "engine.toml"
    file.write_text(f"[capture]\n{capture}\n{more}\n{ROUTE}")
    try:
        load_settings(str(file), {}, {})
    except ConfigError as error:
        return "\n".join(str(problem) for problem in error.problems)
    return ""


NAMES = 'source = "stream"\nstreams = ["changes"]\nkey_field = "key"\n'


@pytest.mark.parametrize(
    "capture",
    [
        NAMES,
        'source = "stream"\nstreams = ["a", "b"]\nfields = ["*"]\nconsumer_group = "g"',
        NAMES + 'after_ack = "delete"\nclaim_idle_ms = 5000',
    ],
)
def test_streams_are_read(tmp_path: Path, capture: str) -> None:
    """Both shapes are settings."""
    assert problems(tmp_path, capture) == ""


@pytest.mark.parametrize(
    ("capture", "said"),
    [
        ('source = "stream"\nkey_field = "key"', "needs capture.streams"),
        ('source = "stream"\nkey_field = "key"\nstreams = []', "needs capture.streams"),
        ('source = "stream"\nkey_field = "key"\nstreams = [""]', "names an empty stream"),
        ('source = "stream"\nkey_field = "key"\nstreams = ["a", "a"]', "names 'a' twice"),
        ('source = "stream"\nstreams = ["a"]', "needs capture.key_field or capture.fields"),
        (NAMES + 'fields = ["*"]', "and capture.key_field are both set"),
        (NAMES + 'event_field = "key"', "is the key's field"),
        (NAMES + 'consumer_group = ""', "is empty"),
        (NAMES + "claim_idle_ms = 10", "is 10"),
        ('source = "stream"\nstreams = ["a"]\nfields = ["*"]\nafter_ack = "delete"', "does not go with capture.fields"),
        ('source = "stream"\nstreams = ["a", "a/b"]\nfields = ["*"]', "names 'a' and 'a/b'"),
        ('streams = ["a"]', "has no effect: changes do not come from streams"),
        ('source = "streams"', "must be one of"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, capture: str, said: str) -> None:
    """Each mistake is one line that says what is wrong."""
    found = problems(tmp_path, capture)
    assert said in found
    assert "\n" not in found


def test_a_replica_has_no_groups(tmp_path: Path) -> None:
    """Values may not be read at a replica, which may be behind the stream."""
    assert "does not go with streams" in problems(tmp_path, NAMES, '[redis]\nread_from = "replica"\n')
