"""Where the settings of a connection came from: a value alone does not show what it overrides.  (pure)"""

from __future__ import annotations

from engine.routing.databases import in_words
from engine.settings.draft import SECRET, Draft

CONNECTION = (
    "redis.url",
    "redis.databases",
    "redis.username",
    "redis.password",
    "redis.tls_ca_file",
    "redis.tls_cert_file",
    "redis.tls_key_file",
    "redis.tls_verify",
    "aws.region",
    "aws.lambda_endpoint_url",
)
ALWAYS = {"redis.url", "aws.region"}
"""Reported even if they were not set."""


def connection_of(draft: Draft) -> dict[str, str]:
    """Return the connection's settings: each value, with its origin and what it overrides in brackets.

    The URL has lost its credentials by then; for a password only its origin is reported.
    """
    return {
        key: _said(draft, key) for key in CONNECTION if (draft.is_set(key) and draft.get(key) != "") or key in ALWAYS
    }


def _said(draft: Draft, key: str) -> str:
    value = draft.get(key)
    if isinstance(value, tuple):
        value = in_words(value)
    value = "set" if key in SECRET else str(value)
    return f"{value} ({draft.origin(key)})"
