"""Our signature against botocore's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore import auth, credentials
from botocore.awsrequest import AWSRequest

from lambdas.sigv4 import Credentials, Signer

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    def sign(host: str, scheme: str, body: bytes, token: str | None) -> dict[str, str]:
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "DynamoDB_20120810.PutItem"}
        request = AWSRequest("POST", f"{scheme}://{host}/", data=body, headers=headers)
        monkeypatch.setattr(auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None), raising=True)
        auth.SigV4Auth(credentials.Credentials("AKID", "s/ecret+", token), "dynamodb", "eu-west-1").add_auth(request)
        return {name.lower(): value for name, value in request.headers.items()}

    return sign


@pytest.mark.parametrize("token", [None, "", "to/ken=="])
@pytest.mark.parametrize("body", [b"", b"{}", '{"é":"€"}'.encode(), b"\xff\x00" * 1_000])
@pytest.mark.parametrize(
    ("host", "scheme"), [("dynamodb.eu-west-1.amazonaws.com", "https"), ("127.0.0.1:8000", "http")]
)
def test_every_byte_is_botocores(theirs: Any, token: str | None, body: bytes, host: str, scheme: str) -> None:
    """Date, token and signature are those of `SigV4Auth`, also when the signing key is remembered."""
    signer = Signer("dynamodb", "eu-west-1")
    for _ in range(2):
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "DynamoDB_20120810.PutItem"}
        signer.sign(headers, host, body, Credentials("AKID", "s/ecret+", token), NOW.timestamp())
        assert headers == theirs(host, scheme, body, token)


def test_the_key_is_made_anew() -> None:
    """Another day, and another secret, have another signing key; the same have the same."""
    signer = Signer("dynamodb", "eu-west-1")
    seen = []
    for secret, day in (("a", 0), ("a", 1), ("b", 1), ("a", 0), ("a", 0.5)):
        headers: dict[str, str] = {}
        signer.sign(headers, "h", b"", Credentials("AKID", secret), day * 86_400)
        fresh: dict[str, str] = {}
        Signer("dynamodb", "eu-west-1").sign(fresh, "h", b"", Credentials("AKID", secret), day * 86_400)
        assert headers == fresh
        seen.append(headers["authorization"])
    assert len(set(seen)) == 4
