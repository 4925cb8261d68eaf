"""Where the console listens, as ``console.listen`` says it.  (pure)"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

FORMS = '"127.0.0.1:9750", "[::1]:9750", "HOST:PORT" or "unix:/run/ingest-engine/console.sock"'
UNIX = "unix:"
PATH_BYTES_MAX = 107
"""What Linux has room for in a Unix socket's address, less its last 0."""
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]\s/]+)):(?P<port>[0-9]{1,5})")


class BadAddress(ValueError):
    """It is none of `FORMS`; the text says why."""


class Address(NamedTuple):
    """A TCP address, or the ``path`` of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Tell whether nobody on another host can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"{UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Return the address; raise `BadAddress`."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path.startswith("/"):
            raise BadAddress("must have an absolute path")
        if len(path.encode()) > PATH_BYTES_MAX:
            raise BadAddress(f"has a path that is too long for a socket: at most {PATH_BYTES_MAX} bytes")
        return Address(path=path)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise BadAddress("is invalid")
    port = int(match["port"])
    if not 0 < port < 65_536:
        raise BadAddress("has an invalid port: 1 to 65,535")
    return Address(match["v6"] or match["host"], port)
