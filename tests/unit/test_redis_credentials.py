from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aws import cache_tokens
from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.errors import ConfigError, RedisRefused
from engine.redis.connection import IAM_LIFE_MS, RespConnection
from engine.redis.credentials import credentials_of
from engine.sandbox.valkey import ValkeyServer
from engine.settings.file import load_settings

ROUTE = '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hunter2"}


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def user(server: ValkeyServer, name: str, password: str) -> None:
    """Have this be the user's only password."""
    admin = RespConnection.open(RedisSettings(url=server.url), name="admin")
    assert admin.call("ACL", "SETUSER", name, "reset", "on", f">{password}", "~*", "&*", "+@all") == b"OK"
    admin.close()


def test_rotated_password(server: ValkeyServer, tmp_path: Path) -> None:
    """A connection has the password that its file holds when it is made; one that is refused names the file."""
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    user(server, "rotating", "hunter2")
    redis = RedisSettings(url=server.url, username="rotating", password="hunter2", password_file=str(file))
    RespConnection.open(redis, name="test").close()
    user(server, "rotating", "hunter3")
    with pytest.raises(RedisRefused, match="WRONGPASS") as caught:
        RespConnection.open(redis, name="test")
    assert f"does {file} hold the password in force?" in str(caught.value)
    assert "hunter" not in str(caught.value)
    file.write_text("hunter3\n")
    RespConnection.open(redis, name="test").close()


def test_file_that_is_just_written(tmp_path: Path) -> None:
    """A file that is missing or empty for a moment has what it had before, at last at the start."""
    file = tmp_path / "password"
    redis = RedisSettings(username="app", password="of-the-start", password_file=str(file))
    assert credentials_of(redis)[:2] == ("app", "of-the-start")
    file.write_text("newer\n")
    assert credentials_of(redis).password == "newer"
    file.write_text("")
    assert credentials_of(redis).password == "newer"
    file.unlink()
    assert credentials_of(redis).password == "newer"


def test_rotated_user(tmp_path: Path) -> None:
    """The user's file is read anew as well."""
    file = tmp_path / "user"
    file.write_text("app-2\n")
    assert credentials_of(RedisSettings(username="app-1", username_file=str(file))).username == "app-2"


def test_no_secret_is_shown() -> None:
    """No representation of settings or credentials shows a password."""
    redis = RedisSettings(username="app", password="hunter2", sentinel_password="hunter3")
    assert "hunter" not in f"{redis!r} {redis} {credentials_of(redis)!r} {credentials_of(redis)}"


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS has credentials, and tokens are of one moment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache_tokens, "_known", {})
    monkeypatch.setattr(cache_tokens.time, "time", lambda: 1_780_000_000.0)


@pytest.mark.usefixtures("at_noon")
def test_token(server: ValkeyServer) -> None:
    """With IAM, the password is a token for the cache and the user, and the connection knows when it has to go."""
    token = cache_tokens.cache_token("elasticache", "carts", "us-east-1", "engine")
    user(server, "engine", token)
    redis = RedisSettings(
        url=server.url, username="engine", iam="elasticache", iam_cache_name="carts", iam_region="us-east-1"
    )
    before_ms = monotonic_ms()
    connection = RespConnection.open(redis, name="test")
    assert connection.call("ACL", "WHOAMI") == b"engine"
    assert before_ms + IAM_LIFE_MS <= connection.renewal_ms <= monotonic_ms() + IAM_LIFE_MS
    connection.close()


@pytest.mark.usefixtures("at_noon")
def test_refused_token(server: ValkeyServer) -> None:
    """A token that is refused is told in one line that says what to check, and shows nothing of it."""
    user(server, "other", "not-this")
    redis = RedisSettings(
        url=server.url, username="other", iam="memorydb", iam_cache_name="carts", iam_region="us-east-1"
    )
    with pytest.raises(RedisRefused) as caught:
        RespConnection.open(redis, name="test")
    assert "may this role do memorydb:Connect to 'carts' and user 'other'" in str(caught.value)
    assert "X-Amz" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AWS credentials no token can be made, which is told with its remedy."""

    class Nobody:
        def get_credentials(self) -> None:
            return None

    monkeypatch.setattr(cache_tokens, "_known", {})
    monkeypatch.setattr(cache_tokens, "aws_session", Nobody)
    redis = RedisSettings(username="u", iam="elasticache", iam_cache_name="carts", iam_region="us-east-1")
    with pytest.raises(RedisRefused, match=r"no token to authenticate with: .*give AWS credentials"):
        credentials_of(redis)


def loaded(folder: Path, text: str) -> RedisSettings:
    file = folder / "engine.toml"
    file.write_text(text + ROUTE)
    return load_settings(str(file), {"AWS_REGION": "eu-central-1"}, {}).redis


IAM = '[redis]\nurl = "rediss://carts:6379"\niam = "elasticache"\niam_cache_name = "carts"\n'


def test_iam_settings(tmp_path: Path) -> None:
    """IAM takes a user, a cache, and AWS's region where no other is told."""
    redis = loaded(tmp_path, f'{IAM}username = "engine"\n')
    assert (redis.iam, redis.iam_cache_name, redis.iam_region) == ("elasticache", "carts", "eu-central-1")
    assert loaded(tmp_path, f'{IAM}username = "engine"\niam_region = "us-east-1"\n').iam_region == "us-east-1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (IAM, "redis.iam: needs a user"),
        (IAM.replace('"carts"', '""') + 'username = "u"\n', "needs redis.iam_cache_name"),
        (IAM.replace("rediss", "redis") + 'username = "u"\n', "redis.iam: needs TLS"),
        (IAM + 'username = "u"\npassword = "hunter2"\n', "both say how to authenticate"),
        ('[redis]\niam = "dynamodb"\n', "redis.iam: must be one of '', 'elasticache', 'memorydb'"),
        ('[redis]\niam_cache_name = "carts"\n', "has no effect without redis.iam"),
        ('[redis]\nsentinel_password = "hunter2"\n', "redis.sentinel_password: has no effect"),
        ('[redis]\nnode_addresses = ["10.0.0.1:6379"]\n', "is not a pair of addresses"),
        ('[redis]\nnode_addresses = ["10.0.0.1:6379=cache"]\n', "is not a pair of addresses"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, words: str) -> None:
    """What does not go together is told in one line, with its remedy and without a secret."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    (problem,) = caught.value.problems
    assert words in str(problem)
    assert problem.hint or "must be" in problem.message
    assert "hunter2" not in str(problem)


def test_right_settings(tmp_path: Path) -> None:
    """Announced addresses are mapped; Sentinels have a password of their own, also from a file."""
    (tmp_path / "password").write_text("hunter2\n")
    text = '[redis]\nnode_addresses = ["10.0.0.1:6379=cache-1:7001", "[::1]:6379=[::2]:1"]\n'
    text += 'url = "redis+sentinel://a,b/carts"\nsentinel_password_file = "password"\n'
    redis = loaded(tmp_path, text)
    assert redis.node_addresses == ("10.0.0.1:6379=cache-1:7001", "[::1]:6379=[::2]:1")
    assert (redis.url, redis.sentinel_password) == ("redis+sentinel://a,b/carts", "hunter2")
