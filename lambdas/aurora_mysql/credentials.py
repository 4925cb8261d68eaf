"""How the function logs in: a password, a secret of Secrets Manager, or a token that IAM vouches for."""

from __future__ import annotations

import json
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.aurora_mysql.errors import Nature, ServerError
from lambdas.aurora_mysql.settings import Settings
from lambdas.aws import refuse_half_answers
from lambdas.contract import SetupError
from lambdas.signatures import is_of_the_signature

_MENDABLE = frozenset({"ResourceNotFoundException", "AccessDeniedException", "UnrecognizedClientException"})


class Credentials(Protocol):
    """Says as whom to log in; what it says is never logged."""

    def login(self) -> tuple[str, str]:
        """Return user and password, for one connection. Raises `SetupError` or `ServerError`."""

    def renew(self) -> bool:
        """Forget what is remembered; tell whether the next login may be another one."""


def credentials_of(settings: Settings) -> Credentials:
    """Return the way of logging in that the settings ask for."""
    if settings.auth == "iam":
        return Token(settings)
    return Secret(settings) if settings.secret else Password(settings)


class Password:
    """What AURORA_USER and AURORA_PASSWORD say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def login(self) -> tuple[str, str]:
        """Return user and password."""
        return self._settings.user, self._settings.password

    def renew(self) -> bool:
        """Return False: a variable of the environment does not change."""
        return False


class Token:
    """A token for each connection: it holds for 15 minutes, and is signed here, without a call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None

    def login(self) -> tuple[str, str]:
        """Return the user and a new token."""
        settings = self._settings
        try:
            if self._client is None:
                self._client = boto3.client("rds", region_name=settings.region or None)
            token = self._client.generate_db_auth_token(settings.host, settings.port, settings.user)
        except BotoCoreError as error:
            raise SetupError(f"AURORA_AUTH=iam: no token could be signed: {error}") from None
        return settings.user, str(token)

    def renew(self) -> bool:
        """Return False: each token is new as it is."""
        return False


class Secret:
    """A secret as RDS keeps it: JSON with username and password. Read again when the server refuses what it said."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._known: tuple[str, str] | None = None

    def login(self) -> tuple[str, str]:
        """Return user and password."""
        if self._known is None:
            self._known = self._parsed(self._read())
        return self._known

    def renew(self) -> bool:
        """Have the next login read the secret again: it may have been rotated."""
        was_known, self._known = self._known is not None, None
        return was_known

    def _read(self) -> str:
        settings = self._settings
        if self._client is None:
            config = Config(
                connect_timeout=settings.connect_timeout_ms / 1_000,
                read_timeout=settings.read_timeout_ms / 1_000,
                retries={"total_max_attempts": 1},
            )
            region = settings.region or None
            # A session of its own: the default one would keep the credentials that it found first.
            client = boto3.Session().client("secretsmanager", region_name=region, config=config)
            self._client = refuse_half_answers(client)
        try:
            answer = self._client.get_secret_value(SecretId=settings.secret)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _MENDABLE:
                what = "name one that is there in AURORA_SECRET, and grant secretsmanager:GetSecretValue on it"
                raise SetupError(f"the secret {settings.secret} can't be read ({code}): {what}") from None
            if is_of_the_signature(code):
                self._client = None
                raise ServerError(Nature.CALL, f"Secrets Manager rejects the function's signature: {code}") from None
            raise ServerError(Nature.PASSING, f"Secrets Manager refused: {code}") from None
        except BotoCoreError as error:
            raise ServerError(Nature.PASSING, f"Secrets Manager did not answer: {error}") from None
        return str(answer.get("SecretString", ""))

    def _parsed(self, text: str) -> tuple[str, str]:
        try:
            secret = json.loads(text)
            return str(secret["username"]), str(secret["password"])
        # The texts of these errors would show parts of the secret.
        except (ValueError, KeyError, TypeError):
            raise SetupError(
                f"the secret {self._settings.secret} is not a JSON object with username and password, as RDS makes it"
            ) from None
