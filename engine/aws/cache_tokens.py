"""Passwords of ElastiCache and MemoryDB for users that IAM authenticates: a presigned ``connect`` request without its
scheme.

It is signed for the name of the cache (of the replication group, or of the cluster), not for its host, and is accepted
for 15 minutes. Source: AWS, "Authenticating with IAM" (ElastiCache and MemoryDB User Guides).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from typing import Any
from urllib.parse import quote

from engine.aws.credentials import NO_CREDENTIALS, CredentialsFailed, aws_session
from engine.aws.signature import Frozen

EXPIRES_S = 900
_EMPTY = hashlib.sha256(b"").hexdigest()

_lock = threading.Lock()
_known: dict[int, Any] = {}


def cache_token(service: str, cache_name: str, region: str, user: str, unix_s: float | None = None) -> str:
    """Return a password for this user of this cache, by AWS's own chain; raise `CredentialsFailed`. May block."""
    return presigned(service, cache_name, region, user, _frozen(), time.time() if unix_s is None else unix_s)


def presigned(service: str, cache_name: str, region: str, user: str, credentials: Frozen, unix_s: float) -> str:
    """Return the presigned request as botocore's own signer makes it, without ``https://``.  (pure)"""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))
    host, scope = cache_name.lower(), f"{stamp[:8]}/{region}/{service}/aws4_request"
    query = {
        "Action": "connect",
        "User": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(EXPIRES_S),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.token:
        query["X-Amz-Security-Token"] = credentials.token
    pairs = [f"{name}={quote(value, safe='-_.~')}" for name, value in query.items()]
    canonical = f"GET\n/\n{'&'.join(sorted(pairs))}\nhost:{host}\n\nhost\n{_EMPTY}"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"{host}/?{'&'.join(pairs)}&X-Amz-Signature={signature}"


def _frozen() -> Frozen:
    """Return the current credentials; one session per process keeps and renews them."""
    with _lock:
        known = _known.get(os.getpid())
        if known is None:
            known = aws_session().get_credentials()
            if known is None:
                raise CredentialsFailed("no source provides any", NO_CREDENTIALS, passes=False)
            _known[os.getpid()] = known
    frozen: Frozen = known.get_frozen_credentials()
    return frozen
