"""What S3's errors mean."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointProviderError,
    NoCredentialsError,
    ParamValidationError,
)

from lambdas.contract import SetupError
from lambdas.s3_archive.settings import Settings

PASSING = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "TemporaryRedirect",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Errors that say nothing of the object: the same call may succeed a moment later."""

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "InvalidAccessKeyId",
        "InvalidPayer",
        "NotSignedUp",
    }
)
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
_UNUSABLE = (EndpointProviderError, NoCredentialsError, ParamValidationError)
"""Errors of the client itself, before anything is sent: wrong names, no credentials."""


def why_again(error: ClientError | BotoCoreError) -> str:
    """Return why a failed call is to be made again; "" if that would not help."""
    if isinstance(error, BotoCoreError):
        return "" if isinstance(error, _UNUSABLE) else f"S3 did not answer: {error}"
    code, message = code_and_message(error)
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code in PASSING or "Throttling" in code or status >= 500 or status == 429:
        return f"the bucket is throttled or out of service: {code}: {message}"
    return ""


def code_and_message(error: ClientError | BotoCoreError) -> tuple[str, str]:
    """Return what the error is called, and what it says."""
    if isinstance(error, BotoCoreError):
        return type(error).__name__, str(error)
    told = error.response["Error"]
    return str(told["Code"]), str(told.get("Message", ""))


def raise_if_set_up_wrongly(error: ClientError | BotoCoreError, settings: Settings, region: str) -> None:
    """Raise `SetupError` if the bucket, the key of its encryption, or the right to one of them, is missing."""
    code, message = code_and_message(error)
    bucket, key = settings.bucket, settings.kms_key_id
    if isinstance(error, BotoCoreError):
        raise SetupError(f"the bucket {bucket} cannot be called: {message}; check ARCHIVE_BUCKET") from None
    if code in {"NoSuchBucket", "InvalidBucketName"}:
        raise SetupError(f"no bucket {bucket} in {region}: create it, or name another in ARCHIVE_BUCKET") from None
    if code in _ELSEWHERE:
        remedy = "name one of the function's own region in ARCHIVE_BUCKET"
        raise SetupError(f"the bucket {bucket} is not in {region}: {remedy} ({message})") from None
    if code.startswith("KMS."):
        which = key or "of the bucket's default encryption"
        raise SetupError(f"the key {which} cannot be used: check ARCHIVE_KMS_KEY_ID ({code}: {message})") from None
    if code in _DENIED:
        right = f"s3:PutObject on it, and kms:GenerateDataKey on {key}" if key else "s3:PutObject on it"
        raise SetupError(f"may not write to {bucket}/{settings.prefix}*: grant {right} ({message})") from None
