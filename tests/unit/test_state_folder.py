"""Where state lies: the same place from every folder, and each start says what it found there."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from engine.config import Settings
from engine.errors import ConfigError
from engine.settings.file import load_settings
from engine.settings.paths import default_folder

ROUTE = '[[routes]]\nname = "carts"\nfunction = "arn:aws:lambda:eu-west-1:123456789012:function:carts"\n'
HOME = {"HOME": "/home/somebody"}


def load(path: Path, text: str = "", **environ: str) -> Settings:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + ROUTE)
    return load_settings(os.path.relpath(path), environ, {})


def state_of(settings: Settings) -> tuple[str, ...]:
    supervision, delivery = settings.supervision, settings.delivery
    return (
        supervision.checkpoint_file,
        supervision.status_file,
        delivery.backlog_folder,
        delivery.dead_letter_file,
    )


def become(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user whom the host does not know."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    ("environ", "user", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two", "XDG_STATE_HOME": "/x"}, 0, "/var/lib/one"),
        ({"XDG_STATE_HOME": "/x", **HOME}, 1_000, "/x/ingest-engine"),
        ({"XDG_STATE_HOME": "relative", **HOME}, 1_000, "/home/somebody/.local/state/ingest-engine"),
        (HOME, 0, "/var/lib/ingest-engine"),
        (HOME, 1_000, "/home/somebody/.local/state/ingest-engine"),
        ({}, 1_000, ""),
    ],
)
def test_the_default_is_absolute(
    environ: dict[str, str], user: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's folder, then the user's folder for state, then root's; nowhere is an answer too."""
    become(user, monkeypatch)
    assert default_folder(environ) == folder


def test_a_user_without_a_home_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no place for state the settings are refused, with the remedy."""
    become(1_000, monkeypatch)
    with pytest.raises(ConfigError, match=r"supervision.state_folder.*no home.*XDG_STATE_HOME"):
        load(tmp_path / "engine.toml")


def test_state_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file means the same checkpoint, backlog, letters and status, wherever the engine is started."""
    places = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        settings = load(tmp_path / "etc" / "engine.toml", XDG_STATE_HOME="/x")
        places.add(state_of(settings))
    folder = "/x/ingest-engine"
    assert places == {
        tuple(f"{folder}/{name}" for name in ("checkpoint", "status.json", "backlog", "dead_letters.jsonl"))
    }


def test_relative_paths_start_from_the_file_that_says_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file they start from its folder, in the environment from the working directory."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    text = '[delivery]\nbacklog_folder = "../backlog"\n[supervision]\nstate_folder = "state"\n'
    settings = load(tmp_path / "etc" / "engine.toml", text, ENGINE_SUPERVISION_STATUS_FILE="status")
    assert state_of(settings) == (
        str(tmp_path / "etc" / "state" / "checkpoint"),
        str(tmp_path / "cwd" / "status"),
        str(tmp_path / "backlog"),
        str(tmp_path / "etc" / "state" / "dead_letters.jsonl"),
    )


def test_a_password_file_is_found_beside_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret named in a settings file is read from there, whatever the working directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "password").write_text("secret\n")
    monkeypatch.chdir(tmp_path)
    settings = load(tmp_path / "etc" / "engine.toml", '[redis]\npassword_file = "password"\n', XDG_STATE_HOME="/x")
    assert settings.redis.password == "secret"


def test_state_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    """A service whose state lay in .engine below what is now its state folder goes on with it, and only then."""
    folder = tmp_path / "ingest-engine"
    (folder / ".engine").mkdir(parents=True)
    (folder / ".engine" / "checkpoint").touch()
    path = tmp_path / "engine.toml"
    assert load(path, STATE_DIRECTORY=str(folder)).supervision.checkpoint_file == str(folder / ".engine" / "checkpoint")
    (folder / "checkpoint").touch()
    assert load(path, STATE_DIRECTORY=str(folder)).supervision.checkpoint_file == str(folder / "checkpoint")
