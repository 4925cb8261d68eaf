"""What the AWS destinations of dead letters share: clients, and failures as texts with a remedy."""

from __future__ import annotations

import re
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from engine.aws import wire
from engine.aws.credentials import aws_session
from engine.aws.failure_arns import FailureArn
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.answers import with_hint

READ_TIMEOUT_MS_MAX = 10_000
ATTEMPTS_MAX = 2
"""Of botocore's own: a stale connection is not worth a problem. Callers retry everything else."""

EXPECTED = (ClientError, *wire.EXPECTED)
"""What a call may raise."""

_SECRET_IN_URL = re.compile(r"://[^@/\s]*@")
_CODES = {
    "ExpiredToken": "the credentials have expired: renew them, or run with a role that renews its own",
    "InvalidAccessKeyId": "the credentials are not valid: check AWS_ACCESS_KEY_ID, or the profile or role",
    "UnrecognizedClientException": "the credentials are not valid: check AWS_ACCESS_KEY_ID, or the profile or role",
    "InvalidClientTokenId": "the credentials are not valid: check AWS_ACCESS_KEY_ID, or the profile or role",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "RequestTimeTooSkewed": "this machine's clock is off by minutes",
    "QueueDoesNotExist": "check the ARN, and create the queue if it does not exist",
    "NonExistentQueue": "check the ARN, and create the queue if it does not exist",
    "NoSuchBucket": "check the ARN, and create the bucket if it does not exist",
    "InvalidBucketName": "check the bucket's name in the ARN",
    "OverLimit": "120,000 messages of the queue are received and not deleted: wait until they are visible again",
}
_RIGHTS_TO_KMS = "grant kms:GenerateDataKey and kms:Decrypt on the key that encrypts it to the engine's role or user"


def make_client(place: FailureArn, aws: AwsSettings, delivery: DeliverySettings) -> Any:
    """Return boto3's client for this place; every wait of it is bounded. It must not be made before the fork."""
    return aws_session().client(
        place.service,
        region_name=place.region or aws.region or None,
        config=Config(
            connect_timeout=delivery.connect_timeout_ms / 1_000,
            read_timeout=READ_TIMEOUT_MS_MAX / 1_000,
            retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
        ),
    )


def queue_url(client: Any, place: FailureArn) -> str:
    """Return a queue's URL, without asking for it: that would need another right."""
    return f"{client.meta.endpoint_url.rstrip('/')}/{place.account}/{place.name}"


def failure_text(place: FailureArn, what: str, error: Exception, right: str) -> str:
    """Return in one line what a call's failure means, and its remedy; ``right`` is what the call needs."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        return describe(place, what, f"{code}: {message}", hint_for(code, message, right))
    hint = wire.hint_of(error, "the region") or "check the route's on_failure, and AWS's own settings"
    return describe(place, what, str(error), hint)


def describe(place: FailureArn, what: str, why: str, hint: str) -> str:
    """Return a line about a call that failed, without the credentials that a URL in it may hold."""
    return with_hint(f"{place.arn}: cannot {what}: {_SECRET_IN_URL.sub('://***@', why)}", hint)


def hint_for(code: str, message: str, right: str) -> str:
    """Return the remedy for an error code of the service."""
    code = code.rpartition(".")[2]
    if "kms" in (code + message).lower():
        return _RIGHTS_TO_KMS
    if code in {"AccessDenied", "AccessDeniedException", "403", "Forbidden"}:
        return f"grant {right} on it to the engine's role or user"
    return _CODES.get(code.removesuffix("Exception"), _CODES.get(code, "it is retried"))
