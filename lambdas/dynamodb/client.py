"""DynamoDB's wire: a JSON text in, a JSON object out, over connections that stay open.

boto3's client takes 55 µs of CPU an item even in batches of 25, nearly all of it to turn dictionaries into JSON and
back. Here the caller makes the text. What the environment of a function does not say of credentials and endpoint,
botocore is asked for. Nothing is retried: `lambdas.dynamodb.calls` does that.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from lambdas.connections import Connections, NotConnected
from lambdas.contract import DestinationUnavailable, SetupError
from lambdas.dynamodb.errors import CallRefused, NoAnswer
from lambdas.dynamodb.settings import Settings
from lambdas.repeats import TimeLeft
from lambdas.signatures import is_of_the_signature, skew_s
from lambdas.sigv4 import Credentials, Signer

SERVICE = "dynamodb"
_TARGET = "DynamoDB_20120810."
_CONTENT_TYPE = "application/x-amz-json-1.0"

# The regions of AWS's main partition, as botocore's partitions.json has them; all others are botocore's to name.
_COMMON_REGION = re.compile(r"(us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+")
_ENDPOINT_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
)


class Client:
    """One region's DynamoDB; threads may share it. ``now_s`` is Unix time."""

    def __init__(self, settings: Settings, now_s: Callable[[], float] = time.time) -> None:
        self.region, endpoint, self._credentials = find_access(os.environ)
        self._signer = Signer(SERVICE, self.region)
        self._now_s = now_s
        self._skew_s = 0.0
        """What the service's clock is ahead of ours, where it has refused a signature for that."""
        self._read_timeout_ms = settings.read_timeout_ms
        self._connections = Connections(endpoint, settings.connect_timeout_ms / 1_000)

    def call(self, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        """Send one call; return its answer. Raises `CallRefused`, `NoAnswer`, or `TooLate` where nothing was sent."""

        sent_ms = 0

        def asked() -> tuple[dict[str, str], float]:
            nonlocal sent_ms
            call_ms, sent_ms = time_left.call_ms(self._read_timeout_ms), time_left.now_ms()
            headers = {"content-type": _CONTENT_TYPE, "x-amz-target": _TARGET + operation}
            unix_s = self._now_s() + self._skew_s
            self._signer.sign(headers, self._connections.host, body, self._credentials(), unix_s)
            # Added after the signature: proxies may change them.
            headers["accept-encoding"] = "identity"
            headers["user-agent"] = "ingest-engine-dynamodb"
            return headers, call_ms / 1_000

        try:
            status, told, text = self._connections.post(asked, body)
        except OSError as error:
            reason, is_lost = str(error) or type(error).__name__, not isinstance(error, NotConnected)
            raise NoAnswer(reason, is_lost=is_lost, sent_ms=sent_ms) from error
        answer = _whole(status, told, text)
        if status != 200:
            refusal = _refusal(answer, status)
            if is_of_the_signature(refusal.code):
                self._sign_anew(told)
            raise refusal
        return answer

    def _sign_anew(self, told: Mapping[str, str]) -> None:
        """Have the next signature made by the credentials and the clock that the service takes, as far as it says."""
        self._skew_s = skew_s(told, self._now_s())
        _, _, self._credentials = find_access(os.environ)

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()


def _whole(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the answer; raise `NoAnswer` where it is not what was sent: half of one could mean success."""
    checksum = headers.get("x-amz-crc32", "")
    if checksum.isdigit() and int(checksum) != zlib.crc32(body):
        raise NoAnswer("its checksum is not that of its header", is_lost=True)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    if status == 200:
        raise NoAnswer("it is not a JSON object", is_lost=True)
    return {}


def _refusal(answer: Mapping[str, Any], status: int) -> CallRefused:
    code = str(answer.get("__type", status)).rpartition("#")[2]
    return CallRefused(code, str(answer.get("message") or answer.get("Message") or ""), status)


def find_access(environ: Mapping[str, str]) -> tuple[str, str, Callable[[], Credentials]]:
    """Return region, endpoint, and what gives the credentials of now.

    In Lambda all of it is in the environment, where botocore would look first too; its session, which takes 100 ms to
    make, is asked only for what is not there. Raises `SetupError`.
    """
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    region = environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or ""
    is_plain = _COMMON_REGION.fullmatch(region) and not any(map(environ.get, _ENDPOINT_VARIABLES))
    endpoint = environ.get("AWS_ENDPOINT_URL_DYNAMODB", "") if region else ""
    if is_plain:
        endpoint = f"https://{SERVICE}.{region}.amazonaws.com"
    elif not endpoint or environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        region, endpoint = _configured_endpoint(region)
    if key and secret:
        found = Credentials(key, secret, environ.get("AWS_SESSION_TOKEN"))
        return region, endpoint, lambda: found
    return region, endpoint, _renewed_credentials()


def _configured_endpoint(region: str) -> tuple[str, str]:
    """Return region and endpoint as botocore's own client of the service would have them."""
    from botocore.session import get_session

    session = get_session()
    region = region or session.get_config_variable("region") or ""
    if not region:
        raise SetupError("no AWS region: set AWS_REGION")
    # The client has resolved variables, profiles, FIPS, dual stack and partitions; no call is made with it.
    client = session.create_client(SERVICE, region_name=region)
    return client.meta.region_name, client.meta.endpoint_url


def _renewed_credentials() -> Callable[[], Credentials]:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import get_session

    try:
        chain = get_session().get_credentials()
    except (BotoCoreError, ClientError) as error:
        raise DestinationUnavailable(f"no AWS credentials: {error}") from None
    if chain is None:
        raise SetupError("no AWS credentials: give the function a role")

    def now() -> Credentials:
        try:
            frozen = chain.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise DestinationUnavailable(f"the AWS credentials cannot be renewed: {error}") from None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    return now
