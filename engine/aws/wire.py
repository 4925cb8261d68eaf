"""What goes wrong with a request before there is an answer, as botocore tells it."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError

EXPECTED = (BotoCoreError, HTTPError, ValueError)
"""What a request may raise; ValueError is botocore's for an endpoint that is no URL."""

SILENCE = (ReadTimeoutError, BodyTimeoutError)
"""The other side did not answer in time."""

_WIRE = (HTTPClientError, ConnectionError, HTTPError)
_NOT_SENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)
_NO_CREDENTIALS_HINT = "give AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_NO_REGION_HINT = "set aws.region, or AWS_REGION"
_TLS_HINT = "if a proxy or endpoint has a certificate of its own, name its authority's file in AWS_CA_BUNDLE"


def is_of_the_wire(error: Exception) -> bool:
    """Tell whether it went wrong on the request's way, as against before it set out."""
    return isinstance(error, _WIRE)


def may_be_lost(error: Exception) -> bool:
    """Tell whether the other side may have heard of the request, and may yet do what it asks."""
    return isinstance(error, _WIRE) and not isinstance(error, _NOT_SENT)


def concerns_all(error: Exception) -> bool:
    """Tell whether no other request to this endpoint would fare better."""
    return isinstance(error, (*_WIRE, NoCredentialsError, NoRegionError))


def hint_of(error: Exception, where: str) -> str:
    """Return the remedy, "" where there is none to name; ``where`` is what says where the service is."""
    if isinstance(error, NoCredentialsError):
        return _NO_CREDENTIALS_HINT
    if isinstance(error, NoRegionError):
        return _NO_REGION_HINT
    if isinstance(error, SSLError):
        return _TLS_HINT
    if isinstance(error, _WIRE):
        return f"check {where}, and the way there: firewall, proxy, VPC endpoint"
    return ""
