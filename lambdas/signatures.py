"""AWS's errors of credentials and clocks: they are the call's, and say nothing of what is in it.  (pure)

Another signature may be taken a moment later: by newer credentials, or by the time that the service has.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_NAMES = frozenset(
    {
        "ExpiredToken",
        "IncompleteSignature",
        "InvalidSignature",
        "InvalidToken",
        "MissingAuthenticationToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
SKEW_S_MIN = 60
"""A clock that is off by less is no reason: AWS allows minutes."""


def is_of_the_signature(code: str) -> bool:
    """Tell whether an error is about who called and when; some services add "Exception" to its name."""
    return code.removesuffix("Exception") in _NAMES


def skew_s(headers: Mapping[str, str], now_s: float) -> float:
    """Return what the service's clock is ahead of ours, by its answer; 0 if they agree. ``now_s`` is Unix time."""
    try:
        skew = parsedate_to_datetime(headers.get("date", "")).timestamp() - now_s
    except (ValueError, TypeError):
        return 0.0
    return skew if abs(skew) >= SKEW_S_MIN else 0.0
