"""Requests are signed from what those of one second have in common, and each is as if it were signed by itself."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.credentials import Credentials

from engine.aws.access import Access
from engine.aws.signature import Signer
from engine.delivery.requests import Way

ENDPOINT, PATH = "https://lambda.eu-west-1.amazonaws.com", "/2015-03-31/functions/f/invocations"
HEADERS = {"Content-Type": "application/json"}


class Renewed:
    """Credentials that are others with each renewal."""

    def __init__(self) -> None:
        self.renewals = 0
        self.is_due = False

    def get_frozen_credentials(self) -> Any:
        self.renewals += 1
        token = "token" if self.renewals % 2 else None
        return Credentials(f"AKID{self.renewals}", f"secret{self.renewals}", token).get_frozen_credentials()

    def refresh_needed(self) -> bool:
        return self.is_due


def way_of(credentials: Any) -> Way:
    return Way(Access("eu-west-1", ENDPOINT, credentials, True, {}), "lambda", PATH, HEADERS, 1.0)


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_each_request_has_the_signature_of_its_own_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the body, the second and the credentials, and however many requests came before."""
    credentials = Renewed()
    way = way_of(credentials)
    assert way.needs_renewal()
    for second, body, renews in [
        (1_700_000_000.2, b"{}", True), (1_700_000_000.9, b"\xff" * 300, False), (1_700_000_001.0, b"", False),
        (1_700_000_001.1, b"{}", True), (1_700_086_400.0, b"{}", False), (1_700_086_400.5, b"{}", True),
    ]:  # fmt: skip
        monkeypatch.setattr("engine.delivery.requests.time.time", lambda second=second: second)
        if renews:
            way.renew()
        first, headers, sent = parsed(way.request(body))
        host = "lambda.eu-west-1.amazonaws.com"
        signer = Signer("lambda", "eu-west-1", host, PATH)
        added = signer.sign({"content-type": "application/json"}, body, way._frozen, second)
        assert (first, sent) == (f"POST {PATH} HTTP/1.1", body)
        assert headers["Content-Length"] == str(len(body))
        assert headers["Host"] == host
        assert {name: headers.get(name) for name in added} == added
        assert ("X-Amz-Security-Token" in headers) == bool(credentials.renewals % 2)


def test_credentials_that_are_due_are_renewed_first() -> None:
    """Those that are renewed now and then are asked whether they are due, before each request; others never are."""
    renewed = Renewed()
    way = way_of(renewed)
    way.renew()
    assert not way.needs_renewal()
    renewed.is_due = True
    assert way.needs_renewal()
    fixed = way_of(Credentials("AKID", "secret"))
    assert fixed.needs_renewal()
    fixed.renew()
    assert not fixed.needs_renewal()


def test_a_request_s_own_headers_are_signed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traced invocation has a signature over its context too; requests without one are as ever, before and after."""
    monkeypatch.setattr("engine.delivery.requests.time.time", lambda: 1_700_000_000.2)
    way = way_of(Renewed())
    way.renew()
    plain = way.request(b"{}")
    first, headers, sent = parsed(way.request(b"{}", {"X-Amz-Client-Context": "abc="}))
    signer = Signer("lambda", "eu-west-1", "lambda.eu-west-1.amazonaws.com", PATH)
    signed = {"content-type": "application/json", "x-amz-client-context": "abc="}
    added = signer.sign(signed, b"{}", way._frozen, 1_700_000_000.2)
    assert (first, sent, headers["X-Amz-Client-Context"]) == (f"POST {PATH} HTTP/1.1", b"{}", "abc=")
    assert headers["Content-Length"] == "2"
    assert {name: headers.get(name) for name in added} == added
    assert "x-amz-client-context" in headers["Authorization"]
    assert way.request(b"{}") == plain
