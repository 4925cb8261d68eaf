"""Checks of the settings that say how the server is reached."""

from __future__ import annotations

import re

from engine.redis.address import SENTINEL, split
from engine.settings.draft import Draft

_PLACE = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:=\[\]]+):[0-9]{1,5}")


def check_server(draft: Draft) -> None:
    """Note what cannot be combined, or has no effect."""
    _check_tls(draft)
    _check_iam(draft)
    _check_sentinels(draft)
    _check_node_addresses(draft)


def _has_tls(draft: Draft) -> bool:
    return bool(draft.get("redis.url").startswith("rediss"))


def _check_tls(draft: Draft) -> None:
    if draft.get("redis.tls_key_file") and not draft.get("redis.tls_cert_file"):
        draft.say(
            draft.place("redis.tls_key_file"),
            "is a key without a certificate",
            "set redis.tls_cert_file too",
        )
    named = [key for key in ("redis.tls_ca_file", "redis.tls_cert_file") if draft.get(key)]
    if named and not _has_tls(draft):
        draft.say(
            draft.place(named[0]), "has no effect: redis.url does not ask for TLS", "begin the URL with rediss://"
        )


def _check_iam(draft: Draft) -> None:
    """Check that a token can be made, and goes to nobody who should not have it."""
    iam, place = draft.get("redis.iam"), draft.place("redis.iam")
    if not iam:
        if draft.get("redis.iam_cache_name"):
            draft.say(
                draft.place("redis.iam_cache_name"), "has no effect without redis.iam", 'set redis.iam = "elasticache"'
            )
        return
    if not draft.get("redis.iam_region") and draft.get("aws.region"):
        draft.set("redis.iam_region", draft.get("aws.region"), draft.place("aws.region"))
    if not draft.get("redis.username"):
        draft.say(place, "needs a user", "set redis.username to the user whose way of authentication is IAM")
    if not draft.get("redis.iam_cache_name"):
        what = "replication group's id" if iam == "elasticache" else "cluster's name"
        draft.say(place, "needs redis.iam_cache_name", f"the {what}: a token is signed for it, not for the host")
    if not draft.get("redis.iam_region"):
        draft.say(place, "needs a region", "set redis.iam_region, or AWS_REGION")
    if draft.get("redis.password"):
        draft.say(place, f"and {draft.place('redis.password')} both say how to authenticate", "keep one of them")
    if not _has_tls(draft):
        draft.say(place, "needs TLS, as AWS does for it", "begin redis.url with rediss://")


def _check_sentinels(draft: Draft) -> None:
    if SENTINEL in draft.get("redis.url").partition("://")[0]:
        return
    named = [key for key in ("redis.sentinel_username", "redis.sentinel_password") if draft.get(key)]
    if named:
        hint = "redis.url names no Sentinels: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
        draft.say(draft.place(named[0]), "has no effect", hint)


def _check_node_addresses(draft: Draft) -> None:
    for entry in draft.get("redis.node_addresses"):
        announced, equals, reached = entry.partition("=")
        if not equals or not all(_is_place(text) for text in (announced, reached)):
            hint = "as in 10.0.0.1:6379=cache-1.example.com:6379: announced, then reached"
            draft.say(draft.place("redis.node_addresses"), f"{entry[:80]!r} is not a pair of addresses", hint)


def _is_place(text: str) -> bool:
    return bool(_PLACE.fullmatch(text)) and 1 <= split(text)[1] <= 65_535
