"""The sandbox's stand-in for an AWS account: made-up credentials, one region, clients and environments for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REGION = "us-east-1"
ACCOUNT_ID = "123456789012"
ACCESS_KEY_ID = "sandbox"
SECRET_ACCESS_KEY = "sandbox"  # not a secret: the sandbox accepts any

_PROFILE_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
DYNAMODB_ATTEMPTS_MAX = 10


def sandbox_environment(
    *, redis_url: str = "", lambda_endpoint: str = "", dynamodb_endpoint: str = ""
) -> dict[str, str]:
    """Return the variables that point boto3 and the engine at the parts that are given.

    The credentials are made up, so that a call that misses the sandbox can't reach anybody's account.
    """
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_SESSION_TOKEN": "",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    }
    parts = {
        "REDIS_URL": redis_url,
        "AWS_ENDPOINT_URL_LAMBDA": lambda_endpoint,
        "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_endpoint,
    }
    return environment | {name: value for name, value in parts.items() if value}


def child_environment(base: Mapping[str, str], sandbox: Mapping[str, str]) -> dict[str, str]:
    """Return ``base`` without any AWS profile, with the sandbox's variables set.

    A profile that exists gives way to the variables; one that is missing makes boto3 fail, so none is handed on.
    """
    kept = {name: value for name, value in base.items() if name not in _PROFILE_VARIABLES}
    return kept | dict(sandbox)


def client(service: str, endpoint: str) -> Any:
    """Return a boto3 client for a part of the sandbox, whatever the caller's AWS set-up.

    It retries nothing, but for the DynamoDB, which throttles as the service does.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    attempts = DYNAMODB_ATTEMPTS_MAX if service == "dynamodb" else 1
    # The session looks at no profile: one that is missing would make it fail before it sees our credentials.
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    return boto3.Session(botocore_session=session).client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}, read_timeout=900),
    )
