"""A request as botocore would send it, intercepted before it is sent: where it goes, and which headers it has.

Endpoints follow rules by service, region, account, partition and environment, and so do the headers that a protocol
requires. All of that is left to botocore, and asked for once. The requests that follow differ only in their body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from engine.aws.access import Access, access_by
from engine.aws.credentials import aws_session

_OF_A_CALL = frozenset({"amz-sdk-invocation-id", "amz-sdk-request", "content-length", "user-agent"})
_OF_A_SIGNATURE = frozenset({"authorization", "x-amz-date", "x-amz-security-token"})


@dataclass(frozen=True, slots=True)
class Template:
    """What all requests of one operation to one place have in common; ``headers`` (in lower case) are signed."""

    access: Access
    service: str
    path: str
    headers: dict[str, str]

    @property
    def endpoint(self) -> str:
        """Return the service's URL, as a client has it."""
        return f"{self.access.endpoint}{self.path}".rstrip("/")


class _Caught(Exception):
    def __init__(self, request: Any) -> None:
        self.request = request


def _catch(request: Any, **_: Any) -> NoReturn:
    raise _Caught(request)


def template_of(service: str, region: str, method: str, parameters: Callable[[str], Mapping[str, Any]]) -> Template:
    """Return the template of what boto3's ``method`` sends; blocks, and raises botocore's errors.

    ``parameters`` are those of some call, for a client of this endpoint.
    """
    session = aws_session()
    client = session.client(service, region_name=region or None)
    client.meta.events.register("before-send.*.*", _catch)
    try:
        getattr(client, method)(**parameters(client.meta.endpoint_url))
        raise AssertionError("a request was sent that was to be caught")
    except _Caught as caught:
        request = caught.request
    finally:
        client.close()
    place = urlsplit(request.url)
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    kept = {name: value for name, value in headers.items() if name not in _OF_A_CALL | _OF_A_SIGNATURE}
    access = access_by(session, client.meta.region_name, f"{place.scheme}://{place.netloc}")
    return Template(access, service, place.path or "/", kept)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
