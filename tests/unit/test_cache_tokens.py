from __future__ import annotations

import datetime
from urllib.parse import parse_qs, urlencode, urlsplit

import botocore.auth
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials

from engine.aws.cache_tokens import presigned

UNIX_S = 1_780_000_000.0


def botocores(service: str, host: str, region: str, user: str, keys: ReadOnlyCredentials) -> str:
    """Return the token as botocore's own signer makes it, in the way that AWS's guides show."""
    url = f"https://{host}/?{urlencode({'Action': 'connect', 'User': user})}"
    request = AWSRequest("GET", url)
    SigV4QueryAuth(Credentials(*keys[:3]), service, region, expires=900).add_auth(request)
    return str(request.url).removeprefix("https://")


@pytest.mark.parametrize("service", ["elasticache", "memorydb"])
@pytest.mark.parametrize("session", [None, "a/b+c=="])
@pytest.mark.parametrize("user", ["engine", "an engine+1&x/y"])
def test_as_botocore_signs(monkeypatch: pytest.MonkeyPatch, service: str, session: str | None, user: str) -> None:
    """A token is what botocore's own signer makes of the documented request."""
    moment = datetime.datetime.fromtimestamp(UNIX_S, datetime.UTC)
    for name in ("get_current_datetime", "datetime"):
        if hasattr(botocore.auth, name):
            monkeypatch.setattr(botocore.auth, name, _Clock(moment))
    keys = ReadOnlyCredentials("AKIDEXAMPLE", "secret/+", session)
    ours = presigned(service, "carts-cache", "eu-central-1", user, keys, UNIX_S)
    assert parts(ours) == parts(botocores(service, "carts-cache", "eu-central-1", user, keys))


def test_the_form() -> None:
    """A token has no scheme, is for the cache's name in small letters, and is good for 15 minutes."""
    token = presigned(
        "elasticache", "Carts", "us-east-1", "engine", ReadOnlyCredentials("AKID", "secret", None), UNIX_S
    )
    assert token.startswith(
        "carts/?Action=connect&User=engine&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F"
    )
    query = parse_qs(urlsplit(f"https://{token}").query)
    assert query["X-Amz-Credential"] == ["AKID/20260528/us-east-1/elasticache/aws4_request"]
    assert query["X-Amz-Expires"] == ["900"]
    assert "secret" not in token


def parts(token: str) -> tuple[str, dict[str, list[str]]]:
    found = urlsplit(f"https://{token}")
    return found.netloc + found.path, parse_qs(found.query)


class _Clock:
    """Stands for what botocore asks for the time: a function in newer versions, the module ``datetime`` in older."""

    def __init__(self, moment: datetime.datetime) -> None:
        self._moment = moment
        self.datetime = self
        self.timezone = datetime.timezone
        self.UTC = datetime.UTC

    def __call__(self, *_: object, **__: object) -> datetime.datetime:
        return self._moment

    utcnow = now = __call__
