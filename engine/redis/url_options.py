"""The options that users of redis-py and valkey-py have in their URLs, as settings of ours.  (pure)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class BadRedisUrl(ValueError):
    """What is wrong, in words that repeat nothing of the URL that could be secret."""


def _milliseconds(text: str) -> int:
    value = round(float(text) * 1_000)
    if value <= 0:
        raise ValueError
    return value


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _verifies(text: str) -> bool:
    return {"none": False, "optional": True, "required": True}[text.lower().removeprefix("cert_")]


def _only_true(text: str) -> None:
    if text.lower() not in {"true", "1", "yes"}:
        raise ValueError


_SETTINGS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "socket_timeout": ("read_timeout_ms", _milliseconds, "seconds"),
    "socket_connect_timeout": ("connect_timeout_ms", _milliseconds, "seconds"),
    "ssl_ca_certs": ("tls_ca_file", _text, "a file"),
    "ssl_certfile": ("tls_cert_file", _text, "a file"),
    "ssl_keyfile": ("tls_key_file", _text, "a file"),
    "ssl_cert_reqs": ("tls_verify", _verifies, "none or required"),
    "username": ("username", _text, "a name"),
    "password": ("password", _text, "a text"),
}
"""Option → setting in ``[redis]``, how its value is read, and what is expected."""

_CHECKED: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "ssl_check_hostname": (_only_true, "the name is checked with the certificate: see redis.tls_verify"),
}
"""Options of which we support one value only, and why."""

_OURS = frozenset(
    {
        "client_name",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "lib_name",
        "lib_version",
        "max_connections",
        "protocol",
        "retry_on_error",
        "retry_on_timeout",
        "single_connection_client",
        "socket_keepalive",
        "socket_read_size",
        "timeout",
    }
)
"""How a client works: the engine works in its own way, so these change nothing."""

_UNKNOWN_TO_US = frozenset(
    {
        "credential_provider",
        "path",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_ciphers",
        "ssl_min_version",
        "ssl_ocsp_context",
        "ssl_ocsp_expected_cert",
        "ssl_password",
        "ssl_validate_ocsp",
        "ssl_validate_ocsp_stapled",
    }
)
"""What would change which server is reached, or how safely, and is not supported here."""

KNOWN = ("db", *_SETTINGS, *_CHECKED, *sorted(_OURS))


def settings_in(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the settings that a URL's options stand for, without ``db``; raise `BadRedisUrl`.

    An option that redis-py does not have is not repeated: it may be the rest of a password.
    """
    found: dict[str, Any] = {}
    for name, value in query:
        if name in _SETTINGS:
            setting, read, expected = _SETTINGS[name]
            found[setting] = _read(name, value, read, f"{expected} is expected")
        elif name in _CHECKED:
            read, why = _CHECKED[name]
            _read(name, value, read, why)
        elif name in _UNKNOWN_TO_US:
            raise BadRedisUrl(f"has the option {name}, which the engine does not have")
        elif name not in _OURS and name != "db":
            raise BadRedisUrl(f"has an unknown option; known are {', '.join(KNOWN)}")
    return found


def _read(name: str, value: str, read: Callable[[str], Any], why: str) -> Any:
    try:
        return read(value)
    except (ValueError, KeyError, OverflowError):
        raise BadRedisUrl(f"has an invalid {name}: {why}") from None
