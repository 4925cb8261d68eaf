"""Where the console may listen, and what that takes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from engine.config import Settings
from engine.console.address import Address, BadAddress, parse
from engine.console.guard import knows_token, names_this_host
from engine.errors import ConfigError, Problem
from engine.settings.file import load_settings

TOKEN = "0123456789abcdef"
ROUTE = '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'


def load(folder: Path, console: str) -> Settings:
    file = folder / "engine.toml"
    file.write_text(f"[console]\n{console}\n{ROUTE}")
    return load_settings(str(file), {"AWS_REGION": "us-east-1"}, {})


def problems(folder: Path, console: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, console)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "address", "is_local"),
    [
        ("127.0.0.1:9750", Address("127.0.0.1", 9750), True),
        ("127.8.0.9:1", Address("127.8.0.9", 1), True),
        ("[::1]:9750", Address("::1", 9750), True),
        ("localhost:65535", Address("localhost", 65_535), True),
        ("unix:/run/console.sock", Address(path="/run/console.sock"), True),
        ("0.0.0.0:9750", Address("0.0.0.0", 9750), False),
        ("[::]:9750", Address("::", 9750), False),
        ("10.1.2.3:9750", Address("10.1.2.3", 9750), False),
        ("localhost.example.com:9750", Address("localhost.example.com", 9750), False),
    ],
)
def test_addresses(text: str, address: Address, is_local: bool) -> None:
    """An address says who can reach it, and reads back as it was written."""
    assert parse(text) == address
    assert parse(text).is_local is is_local
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text", ["9750", "127.0.0.1", ":9750", "127.0.0.1:0", "127.0.0.1:65536", "http://a:1", "unix:run.sock", "a b:1"]
)
def test_bad_addresses(text: str, tmp_path: Path) -> None:
    """What is no address is refused with the forms that there are."""
    with pytest.raises(BadAddress):
        parse(text)
    (problem,) = problems(tmp_path, f'listen = "{text}"')
    assert problem.place.endswith("console.listen")
    assert "127.0.0.1:9750" in problem.hint


def test_other_hosts_need_a_token_and_tls(tmp_path: Path) -> None:
    """An address that other hosts can reach is refused without a token, and without TLS, each with its remedy."""
    found = problems(tmp_path, 'listen = "0.0.0.0:9750"')
    assert [problem.message for problem in found] == [
        f"0.0.0.0:9750 can be reached from other hosts, and needs {what}" for what in ("a token", "TLS")
    ]
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    files = 'token_file = "token"\ntls_cert_file = "cert.pem"\ntls_key_file = "key.pem"'
    settings = load(tmp_path, f'listen = "0.0.0.0:9750"\n{files}').console
    assert settings.token_file == str(tmp_path / "token")
    (problem,) = problems(tmp_path, 'listen = "0.0.0.0:9750"\ntoken_file = "token"\ntls_cert_file = "cert.pem"')
    assert "tls_key_file" in problem.message


@pytest.mark.parametrize("token", ["", "short", "zwölf Zeichen und mehr", "two lines of\nsixteen characters"])
def test_a_token_is_long_and_one_line(token: str, tmp_path: Path) -> None:
    """A token that can be guessed, or that no header can carry, is refused; the problem does not show it."""
    (tmp_path / "token").write_text(token)
    (problem,) = problems(tmp_path, 'listen = "127.0.0.1:9750"\ntoken_file = "token"')
    assert "16 characters" in problem.message
    assert not token or token not in str(problem)


def test_what_has_no_use_is_said(tmp_path: Path) -> None:
    """A token without a console is a mistake, not a silence."""
    (tmp_path / "token").write_text(TOKEN)
    (problem,) = problems(tmp_path, 'token_file = "token"')
    assert "no effect without console.listen" in problem.message
    assert load(tmp_path, "").console.listen == ""


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "is_known"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (basic(f"anybody:{TOKEN}"), True),
        (basic(f":{TOKEN}"), True),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (TOKEN, False),
        (f"Digest {TOKEN}", False),
        (basic(TOKEN), False),
        ("Basic !!!", False),
        ("Basic \udcff", False),
        ("Bearer \udcff", False),
    ],
)
def test_who_knows_the_token(header: str, is_known: bool) -> None:
    """A bearer's token counts, and the password of any user; nothing else does, and nothing raises."""
    assert knows_token(header, TOKEN) is is_known


@pytest.mark.parametrize(
    ("header", "is_ours"),
    [
        ("127.0.0.1:9750", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:9750", True),
        ("evil.example", False), ("127.0.0.1.evil.example:9750", False), ("", False), ("[::1", False),
        ("10.0.0.1", False),
    ],
)  # fmt: skip
def test_a_page_of_somebody_else_reaches_nothing(header: str, is_ours: bool) -> None:
    """A name that was made to lead here is not one of this host's."""
    assert names_this_host(header) is is_ours
