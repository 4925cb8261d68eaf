"""What goes wrong with a request before there is an answer, as botocore reports it: was it sent or not?

Only what fails while connecting, or before, counts as not sent. Everything else may have reached the other side and may
still take effect, including what breaks behind a proxy or within TLS: botocore names these errors by where they happen,
not by when.
"""

from __future__ import annotations

import socket
import ssl

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import ConnectTimeoutError as PoolConnectTimeoutError
from urllib3.exceptions import HTTPError, LocationValueError, NewConnectionError, ProxyError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError
from urllib3.exceptions import SSLError as PoolSSLError

from engine.aws.credentials import NO_CREDENTIALS, CredentialsFailed

EXPECTED = (BotoCoreError, ResponseParserError, HTTPError, ValueError)
"""What a request may raise; ValueError is botocore's for an endpoint that is not a URL."""

SILENCE = (ReadTimeoutError, BodyTimeoutError)
"""The other side did not answer in time."""

_WIRE = (HTTPClientError, ConnectionError, HTTPError, ResponseParserError, IncompleteReadError, ChecksumError)
_CONNECTING = (
    ConnectTimeoutError,
    EndpointConnectionError,
    LocationValueError,
    NewConnectionError,
    PoolConnectTimeoutError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
)
"""What can only happen before there is a connection: refused, unresolved, timed out, a certificate that we reject."""

_NO_TUNNEL = "Tunnel connection failed: "
"""How `http.client` begins its message that a proxy has refused CONNECT."""

_DEPTH_MAX = 5
_NO_REGION_HINT = "set aws.region, or AWS_REGION"
TLS_HINT = "if a proxy or endpoint has a certificate of its own, name its authority's file in AWS_CA_BUNDLE"
_PROFILE_HINT = "check AWS_PROFILE, and the files of AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"


class AnswerBrokeOff(HTTPClientError):  # type: ignore[misc]  # botocore has no types
    """An answer that arrived only in part; botocore takes it for an empty one."""

    fmt = "the answer was cut off"


def is_of_the_wire(error: Exception) -> bool:
    """Tell whether it failed on the request's way, rather than before the request was sent."""
    return isinstance(error, _WIRE)


def may_be_lost(error: Exception) -> bool:
    """Tell whether the other side may have received the request, and may still carry it out."""
    return isinstance(error, _WIRE) and not _is_connecting(error)


def _is_connecting(error: BaseException) -> bool:
    """Tell whether an error, or its cause, says that no connection was made."""
    inner: object = error
    for _ in range(_DEPTH_MAX):
        if isinstance(inner, _CONNECTING):
            return True
        if isinstance(inner, OSError) and str(inner).startswith(_NO_TUNNEL):
            return True
        if isinstance(inner, BotoCoreError):
            inner = getattr(inner, "kwargs", {}).get("error")
        elif isinstance(inner, ProxyError):
            inner = inner.original_error
        elif isinstance(inner, PoolSSLError):
            inner = inner.args[0] if inner.args else None
        else:
            return False
    return False


def passes(error: Exception) -> bool:
    """Tell whether the same request may succeed later without anybody's help."""
    if isinstance(error, CredentialsFailed):
        return error.passes
    is_certificate = isinstance(error, SSLError) and not may_be_lost(error)
    return isinstance(error, _WIRE) and not is_certificate


def concerns_all(error: Exception) -> bool:
    """Tell whether no other request to this endpoint would fare better."""
    return isinstance(error, (*_WIRE, CredentialsFailed, NoCredentialsError, NoRegionError, ProfileNotFound))


def hint_of(error: Exception, where: str) -> str:
    """Return the remedy, "" if there is none; ``where`` names the setting that says where the service is."""
    if isinstance(error, CredentialsFailed):
        return error.hint
    if isinstance(error, NoCredentialsError):
        return NO_CREDENTIALS
    if isinstance(error, NoRegionError):
        return _NO_REGION_HINT
    if isinstance(error, ProfileNotFound):
        return _PROFILE_HINT
    if isinstance(error, SSLError):
        return TLS_HINT
    if isinstance(error, _WIRE):
        return way_hint(where)
    return ""


def way_hint(where: str) -> str:
    """Return the remedy for a connection that could not be made, or broke."""
    return f"check {where} and the network path: firewall, proxy, VPC endpoint"
