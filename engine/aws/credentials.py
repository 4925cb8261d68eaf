"""Credentials from AWS's own chain. Whatever goes wrong in it raises one kind of error, which means that nothing was
sent.

The chain may read files, start processes, and ask STS, SSO or a metadata service; its errors are those of all of these.
Left alone, a refusal by STS looks like one by the service that was to be called, and a timeout there like a call that
may have taken effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 5
ATTEMPTS_MAX = 2
"""Of calls to STS and SSO: whoever needs credentials asks again."""

REASON_CHARS_MAX = 300
NO_CREDENTIALS = "give AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_THROTTLES = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "IDPCommunicationError"})


class CredentialsFailed(BotoCoreError):  # type: ignore[misc]  # botocore has no types
    """The chain gave no credentials. ``passes`` if it may do so later without anybody's help."""

    fmt = "no AWS credentials: {reason}"

    def __init__(self, reason: str, hint: str, *, passes: bool) -> None:
        super().__init__(reason=reason)
        self.hint = hint
        self.passes = passes


def aws_session() -> Any:
    """Return a session of boto3 whose clients raise `CredentialsFailed` for all that goes wrong in the chain."""
    session = botocore.session.get_session()
    # By default the chain's own clients wait 60 s, five times, which would hold a thread for minutes.
    retries = {"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"}
    limits = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries=retries)
    session.set_default_client_config(limits)
    logging.getLogger("botocore.credentials").addFilter(_is_news)
    chain = session.get_component("credential_provider")
    session.register_component("credential_provider", _Chain(chain))
    return boto3.Session(botocore_session=session)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a log line of botocore's is worth keeping: without a traceback, and not also raised."""
    if record.exc_info:
        record.msg, record.args, record.exc_info = f"{record.getMessage()} {record.exc_info[1]}", (), None
    return "mandatory refresh" not in str(record.msg)


class _Chain:
    """botocore's chain of providers."""

    def __init__(self, chain: Any) -> None:
        self._chain = chain

    def load_credentials(self) -> Any:
        """Return what the first provider has; None if none has anything."""
        with _one_kind_of_error():
            found = self._chain.load_credentials()
        return None if found is None else _Credentials(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)


class _Credentials:
    """What a provider gave; some fetch or renew it when they are asked."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def get_frozen_credentials(self) -> Any:
        """Return key, secret and token as of this moment."""
        with _one_kind_of_error():
            return self._credentials.get_frozen_credentials()

    def get_deferred_property(self, name: str) -> Callable[[], Any]:
        """Return what fetches one property."""
        fetch = self._credentials.get_deferred_property(name)

        def fetched() -> Any:
            with _one_kind_of_error():
                return fetch()

        return fetched

    def __getattr__(self, name: str) -> Any:
        if name in {"access_key", "secret_key", "token", "account_id"}:
            with _one_kind_of_error():
                return getattr(self._credentials, name)
        return getattr(self._credentials, name)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except CredentialsFailed:
        raise
    except Exception as error:
        # Providers are many, and some are not botocore's: a missing file, a process that prints no JSON, a bad answer.
        raise failure_of(error) from error


def failure_of(error: Exception) -> CredentialsFailed:
    """Return in one line what went wrong in the chain, and the remedy."""
    passes, hint = False, "check AWS's own settings: the environment, and the profile with its role"
    reason = str(error) or type(error).__name__
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passes = status >= 500 or status == 429 or code in _THROTTLES
        if passes:
            hint = "it is retried"
        elif code in _EXPIRED:
            hint = "the credentials that assume the role have expired: renew them"
        else:
            hint = "check role_arn, or AWS_ROLE_ARN, and the trust policy of that role"
    elif isinstance(error, HTTPClientError | ConnectionError | MetadataRetrievalError):
        passes, hint = True, "check the network path to STS, SSO or the metadata service: firewall, proxy, VPC endpoint"
    elif isinstance(error, PartialCredentialsError | NoCredentialsError):
        hint = NO_CREDENTIALS
    elif isinstance(error, SSOError | TokenRetrievalError):
        hint = "log in again: aws sso login"
    elif isinstance(error, ProfileNotFound):
        hint = "check AWS_PROFILE, and the files of AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
    elif isinstance(error, OSError):
        hint = "check AWS_WEB_IDENTITY_TOKEN_FILE, or the profile's web_identity_token_file or credential_process"
    return CredentialsFailed(" ".join(reason.split())[:REASON_CHARS_MAX], hint, passes=passes)
