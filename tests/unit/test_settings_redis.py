from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.config import RedisSettings
from engine.errors import ConfigError
from engine.redis.url import split_url
from engine.redis.url_options import BadRedisUrl
from engine.settings.file import load_settings

ROUTE = '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'


def redis_of(folder: Path, text: str = "", environ: Mapping[str, str] = {}, **flags: str) -> RedisSettings:
    file = folder / "engine.toml"
    file.write_text(text + ROUTE)
    named = {f"redis.{name}": value for name, value in flags.items()}
    return load_settings(str(file), {"AWS_REGION": "us-east-1", **environ}, named).redis


@pytest.mark.parametrize(
    ("url", "bare", "username", "password"),
    [
        ("redis://db", "redis://db", "", ""),
        ("redis://db:7000/3", "redis://db:7000/3", "", ""),
        ("rediss://:p%40ss@db/0", "rediss://db/0", "", "p@ss"),
        ("redis://app:p:w@[::1]:7000/1", "redis://[::1]:7000/1", "app", "p:w"),
        ("redis://db?db=4", "redis://db?db=4", "", ""),
        ("unix:///tmp/redis.sock?db=2", "unix:///tmp/redis.sock?db=2", "", ""),
        ("unix://app:pw@/tmp/redis.sock", "unix:///tmp/redis.sock", "app", "pw"),
        ("valkey://:pw@db:7000/3", "redis://db:7000/3", "", "pw"),
        ("valkeys://db/0", "rediss://db/0", "", ""),
        ("valkeys://app:pw@a:7000,b,[::1]:7/0", "rediss://a:7000,b,[::1]:7/0", "app", "pw"),
        ("redis://db/1?username=app&password=p%26w", "redis://db/1", "app", "p&w"),
        ("redis://db?protocol=3&client_name=me&db=2&decode_responses=True", "redis://db?db=2", "", ""),
    ],
)
def test_urls(url: str, bare: str, username: str, password: str) -> None:
    """A URL is taken apart into an address that can be shown, and credentials."""
    assert split_url(url) == (bare, username, password, {})


def test_options_of_clients(tmp_path: Path) -> None:
    """What users of redis-py and valkey-py have in their URLs is understood, as settings of ours."""
    options = (
        "socket_timeout=2.5&socket_connect_timeout=1&ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&health_check_interval=3"
    )
    redis = redis_of(tmp_path, environ={"REDIS_URL": f"valkeys://db/2?{options}"})
    assert redis.url == "rediss://db/2"
    assert (redis.read_timeout_ms, redis.connect_timeout_ms) == (2_500, 1_000)
    assert (redis.tls_verify, redis.tls_ca_file) == (False, "/ca.pem")
    with pytest.raises(ConfigError, match=r"disagree on redis\.read_timeout_ms"):
        redis_of(tmp_path, "[redis]\nread_timeout_ms = 7000\n", {"REDIS_URL": "redis://db?socket_timeout=2"})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("socket_timeout=soon", "has an invalid socket_timeout: seconds is expected"),
        ("socket_timeout=nan", "has an invalid socket_timeout"),
        ("socket_timeout=inf", "has an invalid socket_timeout"),
        ("socket_timeout=-1", "has an invalid socket_timeout"),
        ("ssl_cert_reqs=maybe", "has an invalid ssl_cert_reqs: none or required"),
        ("ssl_check_hostname=false", "has an invalid ssl_check_hostname"),
        ("ssl_ca_path=/x", "has the option ssl_ca_path"),
        ("secret=1", "has an unknown option; known are db, socket_timeout"),
        ("db=1&db=2", "names a database twice"),
    ],
)
def test_options_that_cannot_be_done_are_named(query: str, words: str) -> None:
    """An option of redis-py's that means something we can't do is named; what is none of its is not repeated."""
    with pytest.raises(BadRedisUrl, match=words) as caught:
        split_url(f"rediss://:hunter2@db?{query}")
    assert "secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@db/0",
        "127.0.0.1:6379",
        "redis://:secret@db:port/0",
        "redis://:secret@db:0",
        "redis://:secret@db:65536",
        "redis://:secret@db/zero",
        "redis://:secret@db/-1",
        "redis://:secret@db/0?db=1",
        "redis://:secret@db/0?password=secret",
        "redis://:sec/ret@db/0",
        "redis://:sec#ret@db/0",
        "redis://:sec?ret@db/0",
        "redis://secret@db/0",
        "redis://:secret@[::1/0",
        "redis://:secret@::1:6379/0",
        "redis://:secret@[]:6379/0",
        "redis://:secret@a:1,,b:2",
        "redis://:secret@a:1,b:x",
        "redis://:secret@a:1,",
        "unix://:secret@host/tmp/redis.sock",
        "unix://",
        "redis://:secret@db/99999999999",
    ],
)
def test_wrong_urls(tmp_path: Path, url: str) -> None:
    """A URL that can't be right is refused where it was set, and no part of it that may be secret is shown."""
    with pytest.raises(BadRedisUrl):
        split_url(url)
    with pytest.raises(ConfigError) as caught:
        redis_of(tmp_path, environ={"REDIS_URL": url})
    (problem,) = caught.value.problems
    assert problem.place == "environment: REDIS_URL"
    assert "redis://HOST:PORT/DATABASE" in problem.hint
    for secret in ("secret", "sec/", "sec#", "sec?", "ret@"):
        assert secret not in str(caught.value)


def test_url_layers(tmp_path: Path) -> None:
    """The URL may come as REDIS_URL, as our own variable, or as a flag; the later of these counts."""
    text = "[redis]\nurl = 'redis://file'\n"
    plain, ours = {"REDIS_URL": "redis://plain"}, {"ENGINE_REDIS_URL": "redis://ours"}
    assert redis_of(tmp_path, text).url == "redis://file"
    assert redis_of(tmp_path, text, plain).url == "redis://plain"
    assert redis_of(tmp_path, text, ours | plain).url == "redis://ours"
    assert redis_of(tmp_path, text, ours | plain, url="redis://flag").url == "redis://flag"


def test_password_in_url_moves(tmp_path: Path) -> None:
    """A password in the URL ends up where it is never shown."""
    redis = redis_of(tmp_path, environ={"REDIS_URL": "redis://app:hunter2@db:1/2"})
    assert (redis.url, redis.username, redis.password) == ("redis://db:1/2", "app", "hunter2")


def test_two_passwords(tmp_path: Path) -> None:
    """Two different passwords are a mistake that we don't guess about; the same one twice is none."""
    environ = {"REDIS_URL": "redis://:hunter2@db", "ENGINE_REDIS_PASSWORD": "hunter3"}
    with pytest.raises(ConfigError, match="ENGINE_REDIS_PASSWORD give different passwords") as caught:
        redis_of(tmp_path, environ=environ)
    assert "hunter" not in str(caught.value)
    environ["ENGINE_REDIS_PASSWORD"] = "hunter2"
    assert redis_of(tmp_path, environ=environ).password == "hunter2"


@pytest.mark.parametrize(
    ("content", "secret"),
    [("pa ss\n", "pa ss"), ("pass", "pass"), ("a\r\n", "a"), ("é\n\n", "é\n"), ("\ufeffpass\r\n", "pass")],
)
def test_credential_files(tmp_path: Path, content: str, secret: str) -> None:
    """User and password may come from files, without the line break at their end."""
    (tmp_path / "user").write_bytes(b"app\n")
    (tmp_path / "password").write_bytes(content.encode())
    text = f"[redis]\nusername_file = '{tmp_path}/user'\npassword_file = '{tmp_path}/password'\n"
    redis = redis_of(tmp_path, text)
    assert (redis.username, redis.password) == ("app", secret)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_credential_file(tmp_path: Path) -> None:
    """A password file that may not be read is a problem."""
    (tmp_path / "password").touch(mode=0)
    with pytest.raises(ConfigError, match="can't be read: Permission denied"):
        redis_of(tmp_path, password_file=f"{tmp_path}/password")


def test_wrong_credential_files(tmp_path: Path) -> None:
    """A missing or empty file, one that is not text, and a file beside a value, are problems."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfehunter")
    (tmp_path / "password").write_text("hunter2\n")
    for name, message in (
        ("missing", "can't be read: No such file"),
        ("empty", "holds no password"),
        ("binary", "holds no password"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            redis_of(tmp_path, environ={"ENGINE_REDIS_PASSWORD_FILE": f"{tmp_path}/{name}"})
        assert caught.value.problems[0].place == "environment: ENGINE_REDIS_PASSWORD_FILE"
        assert len(caught.value.problems) == 1
    text = f"[redis]\npassword_file = '{tmp_path}/password'\n"
    with pytest.raises(ConfigError, match="ENGINE_REDIS_PASSWORD both give the password") as caught:
        redis_of(tmp_path, text, {"ENGINE_REDIS_PASSWORD": "hunter3"})
    assert "hunter" not in str(caught.value)


def test_mistyped_password_is_not_shown(tmp_path: Path) -> None:
    """A password of a wrong type, or under a wrong name, is not repeated in the message."""
    for text in ("[redis]\npassword = 31337\n", "[redis]\npasword = '31337'\n", "[redis]\nurl = ['31337']\n"):
        with pytest.raises(ConfigError) as caught:
            redis_of(tmp_path, text)
        assert "31337" not in str(caught.value)
