"""Objects → the bucket, by ``PutObject``, until each is written or has failed with a reason."""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from lambdas.contract import DestinationUnavailable, SetupError
from lambdas.repeats import Repeats, TimeLeft, past_deadline
from lambdas.s3_archive.calls import code_and_message, raise_if_set_up_wrongly, why_again
from lambdas.s3_archive.lines import ArchiveObject
from lambdas.s3_archive.settings import BY_THE_BUCKET, Settings
from lambdas.signatures import is_of_the_signature

CHECK_NAME = ".check"
"""Athena passes over objects whose names begin with a dot."""

CONTENT_TYPE = "application/gzip"


class Refused(Exception):
    """S3 does not take the object, and would not at a repeat; the text says why."""


class SignatureRefused(Exception):
    """S3 does not take the function's credentials, or its clock: that says nothing of the object."""


class ArchiveWriter:
    """Puts objects into the bucket, one at a time: the one layer that retries.

    ``connect`` makes a client by the credentials of now.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._settings = settings
        self._repeats = Repeats(settings, sleep, rng)

    def write(self, objects: Iterable[ArchiveObject], time_left: TimeLeft) -> dict[str, str]:
        """Put all; return record_id → reason of those whose object was not put.

        A call that was not answered may have put its object: the repeat replaces it with itself. Raises `SetupError`
        where no write can succeed, and `DestinationUnavailable` where S3 takes no signature.
        """
        failed: dict[str, str] = {}
        for one in objects:
            reason = self._drive(one, time_left)
            if reason:
                failed.update((record_id, reason) for record_id in one.record_ids)
        return failed

    def check(self) -> None:
        """See whether the bucket is there and may be written; raise `SetupError` where not.

        It puts an empty object under a fixed name, with the same rights and the same encryption as all others. An
        outage raises nothing: it passes.
        """
        try:
            self._put(f"{self._settings.prefix}{CHECK_NAME}", b"")
        except SignatureRefused:
            return
        except Refused as error:
            raise SetupError(f"the bucket {self._settings.bucket} does not accept our object: {error}") from None

    def _drive(self, one: ArchiveObject, time_left: TimeLeft) -> str:
        """Put one object, until the attempts or the time are used up; return "" or why it was not put."""
        reason, unsigned = "", ""
        for attempt in range(self._settings.attempts_max):
            if attempt and not self._repeats.pause(attempt, time_left):
                break
            if time_left.is_over():
                return past_deadline(reason)
            try:
                reason, unsigned = self._put(one.name, one.body), ""
            except Refused as error:
                return str(error)
            except SignatureRefused as error:
                reason = unsigned = str(error)
                self._client = self._connect()
                continue
            if not reason:
                return ""
        if unsigned:
            raise DestinationUnavailable(f"S3 rejects the function's signature: {unsigned}")
        return reason

    def _put(self, name: str, body: bytes) -> str:
        """Make one call; return "" when the object is there, else why to call again."""
        request = {
            "Bucket": self._settings.bucket,
            "Key": name,
            "Body": body,
            "ContentType": CONTENT_TYPE,
            "ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        }
        if self._settings.encryption != BY_THE_BUCKET:
            request["ServerSideEncryption"] = self._settings.encryption
        if self._settings.kms_key_id:
            request["SSEKMSKeyId"] = self._settings.kms_key_id
        try:
            self._client.put_object(**request)
        except (ClientError, BotoCoreError) as error:
            if reason := why_again(error):
                return reason
            if is_of_the_signature(code_and_message(error)[0]):
                raise SignatureRefused(": ".join(code_and_message(error))) from None
            raise_if_set_up_wrongly(error, self._settings, self._client.meta.region_name)
            raise Refused(": ".join(code_and_message(error))) from None
        return ""
