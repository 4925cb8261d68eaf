"""Who may ask the console: the token, and the names under which a browser may reach it.  (pure)

Without a token the console listens on this host alone. Any web page that somebody here opens could still ask it, under
a name of its own that leads to this host: so only names of this host are answered.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from urllib.parse import urlsplit

TOKEN_CHARS_MIN = 16


def knows_token(authorization: str, token: str) -> bool:
    """Tell whether an ``Authorization`` header has the token: as a bearer's, or as the password of any user."""
    scheme, _, rest = authorization.strip().partition(" ")
    given = rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token.encode())


def names_this_host(host_header: str) -> bool:
    """Tell whether a ``Host`` header names this host by itself."""
    try:
        name = urlsplit(f"//{host_header}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
