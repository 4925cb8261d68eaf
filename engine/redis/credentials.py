"""Our credentials for a server, determined for each connection: secrets rotate, and AWS tokens last 15 minutes.

A file is read at each connection, so what a platform writes into it applies from the next one on, in every process.
While a file is being replaced and can't be read, its previous content applies.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from engine.config import RedisSettings
from engine.errors import RedisRefused, RedisUnreachable

SECRET_BYTES_MAX = 65_536
_HINT = "check redis.username and redis.password, or the files or the environment that they come from"

_last: dict[str, str] = {}
"""What each file held when it could last be read."""


class Credentials(NamedTuple):
    """A user ("" is the server's default one) and a password; ``hint`` is what to check if they are refused."""

    username: str
    password: str
    hint: str = _HINT

    def __repr__(self) -> str:
        return f"Credentials({self.username!r})"


class BadSecret(ValueError):
    """A file that holds no valid secret, in words that reveal none."""


def credentials_of(redis: RedisSettings) -> Credentials:
    """Return the present credentials for the server; raise `RedisError` if AWS gives no token."""
    username = _newest(redis.username_file, redis.username)
    if redis.iam:
        hint = (
            f"may this role do {redis.iam}:Connect to {redis.iam_cache_name!r} and user {username!r}, is the user's "
            f"name its id, and its way of authentication IAM? See redis.iam_cache_name, redis.iam_region"
        )
        return Credentials(username, _token(redis, username), hint)
    password = _newest(redis.password_file, redis.password)
    if redis.password_file:
        return Credentials(username, password, f"does {redis.password_file} hold the password in force? {_HINT}")
    return Credentials(username, password)


def sentinel_credentials_of(redis: RedisSettings) -> Credentials:
    """Return the present credentials for a Sentinel."""
    hint = "Sentinels have passwords of their own: check redis.sentinel_username and redis.sentinel_password"
    return Credentials(redis.sentinel_username, _newest(redis.sentinel_password_file, redis.sentinel_password), hint)


def read_secret(path: str) -> str:
    """Return the one line in a file; raise OSError or `BadSecret`."""
    with Path(path).open("rb") as file:
        content = file.read(SECRET_BYTES_MAX + 1)
    try:
        secret = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(content) > SECRET_BYTES_MAX:
        raise BadSecret
    return secret


def _token(redis: RedisSettings, username: str) -> str:
    # botocore costs each process 25 MB, so only those that need it import it.
    from engine.aws.cache_tokens import cache_token
    from engine.aws.credentials import CredentialsFailed

    try:
        return cache_token(redis.iam, redis.iam_cache_name, redis.iam_region, username)
    except CredentialsFailed as error:
        kind = RedisUnreachable if error.passes else RedisRefused
        raise kind(f"no token to authenticate with: {error}", hint=error.hint) from error


def _newest(path: str, known: str) -> str:
    """Return what the file holds, or what it held when it could last be read (at least when the settings were read)."""
    if not path:
        return known
    try:
        _last[path] = read_secret(path)
    except (OSError, BadSecret):
        return _last.get(path, known)
    return _last[path]
