"""What goes wrong with a request before there is an answer, as botocore tells it: was it sent, or was it not?

Not sent is only what fails while connecting, or before. Everything else may have reached the other side, and may take
effect yet: also what breaks behind a proxy, or within TLS, for botocore names these by where they pass, not by when.
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
"""What a request may raise; ValueError is botocore's for an endpoint that is no URL."""

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
"""What can only arise before there is a connection: refused, unresolved, timed out, a certificate that we reject."""

_NO_TUNNEL = "Tunnel connection failed: "
"""How `http.client` begins to tell that a proxy has answered CONNECT, and said no."""

_DEPTH_MAX = 5
_NO_REGION_HINT = "set aws.region, or AWS_REGION"
TLS_HINT = "if a proxy or endpoint has a certificate of its own, name its authority's file in AWS_CA_BUNDLE"
_PROFILE_HINT = "check AWS_PROFILE, and the files of AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"


class AnswerBrokeOff(HTTPClientError):  # type: ignore[misc]  # botocore has no types
    """An answer that came in part; botocore takes it for an empty one."""

    fmt = "the answer was cut off"


def is_of_the_wire(error: Exception) -> bool:
    """Tell whether it went wrong on the request's way, as against before it set out."""
    return isinstance(error, _WIRE)


def may_be_lost(error: Exception) -> bool:
    """Tell whether the other side may have heard of the request, and may yet do what it asks."""
    return isinstance(error, _WIRE) and not _is_connecting(error)


def _is_connecting(error: BaseException) -> bool:
    """Tell whether an error, or what it was made of, says that no connection came to be."""
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
    """Return the remedy, "" where there is none to name; ``where`` is what says where the service is."""
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
    """Return the remedy for a connection that did not come to be, or broke."""
    return f"check {where} and the network path: firewall, proxy, VPC endpoint"
