"""The function's environment variables, checked once a container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lambdas.contract import SetupError
from lambdas.environ import check_order, number, one_of, required

PARTITIONS = ("hour", "day")
BY_THE_BUCKET = "bucket"
KMS = "aws:kms"
ENCRYPTIONS = (BY_THE_BUCKET, "AES256", KMS)
PREFIX_BYTES_MAX = 800
"""S3 takes names of 1,024 bytes; the partition and the object's own name need some of them."""

_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}|arn:aws[a-z-]*:s3[a-z-]*:[^\s/]+[:/]\S+")


@dataclass(frozen=True)
class Settings:
    """What the function was told; the README of this folder documents each. ``prefix`` is empty or ends in ``/``."""

    bucket: str
    prefix: str = ""
    partition: str = "hour"
    encryption: str = BY_THE_BUCKET
    kms_key_id: str = ""
    attempts_max: int = 8
    backoff_ms_min: int = 25
    backoff_ms_max: int = 2_000
    reserve_ms: int = 1_000
    connect_timeout_ms: int = 1_000
    read_timeout_ms: int = 2_000


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings; raise `SetupError`, which names the variable and the remedy."""
    settings = Settings(
        _bucket(required(environ, "ARCHIVE_BUCKET", "the bucket that the function writes to")),
        _prefix(environ.get("ARCHIVE_PREFIX", "")),
        one_of(environ, "ARCHIVE_PARTITION", PARTITIONS),
        *_encryption(environ),
        number(environ, "ARCHIVE_ATTEMPTS_MAX", Settings.attempts_max, 1, 100),
        number(environ, "ARCHIVE_BACKOFF_MS_MIN", Settings.backoff_ms_min, 1, 60_000),
        number(environ, "ARCHIVE_BACKOFF_MS_MAX", Settings.backoff_ms_max, 1, 60_000),
        number(environ, "ARCHIVE_RESERVE_MS", Settings.reserve_ms, 0, 60_000),
        number(environ, "ARCHIVE_CONNECT_TIMEOUT_MS", Settings.connect_timeout_ms, 1, 900_000),
        number(environ, "ARCHIVE_READ_TIMEOUT_MS", Settings.read_timeout_ms, 1, 900_000),
    )
    check_order("ARCHIVE_BACKOFF_MS_MIN", settings.backoff_ms_min, "ARCHIVE_BACKOFF_MS_MAX", settings.backoff_ms_max)
    return settings


def _encryption(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the encryption that each object asks for, and the key where it is one of KMS."""
    key = environ.get("ARCHIVE_KMS_KEY_ID", "").strip()
    encryption = one_of(environ, "ARCHIVE_ENCRYPTION", ENCRYPTIONS)
    if key and encryption == "AES256":
        raise SetupError(
            "ARCHIVE_ENCRYPTION is AES256, which uses no KMS key: remove ARCHIVE_KMS_KEY_ID, or set aws:kms"
        )
    return KMS if key else encryption, key


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise SetupError(f"ARCHIVE_BUCKET is {text!r}: the name of a bucket, or the ARN of an access point, is allowed")
    return text


def _prefix(text: str) -> str:
    """Return the prefix with a ``/`` at its end."""
    prefix = text if not text or text.endswith("/") else f"{text}/"
    if prefix.startswith("/") or "//" in prefix or not prefix.isprintable():
        raise SetupError(f"ARCHIVE_PREFIX is {text!r}: folders with one / between them, and none before, are allowed")
    if len(prefix.encode()) > PREFIX_BYTES_MAX:
        raise SetupError(f"ARCHIVE_PREFIX is longer than {PREFIX_BYTES_MAX} bytes: shorten it")
    return prefix
