"""What a cluster's node answers instead of a value: who has the key, or that nobody can give it now.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

LATER_WORDS = ("TRYAGAIN", "CLUSTERDOWN")
"""The beginnings of refusals that concern a key's slot, and pass."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a key is to be asked for: ``address`` (``host:port``) is "" while that is unknown.

    ``is_moved`` if its slot belongs to that node from now on; else only this key is already there, and the node gives
    it to clients that send ``ASKING``.
    """

    address: str
    is_moved: bool = False


LATER = Redirect("")
ASKING = b"*1\r\n$6\r\nASKING\r\n"


def redirect_of(reply: str, host: str) -> Redirect | None:
    """Return what this refusal redirects to; None if it is not a redirect. ``host`` is the one that answered."""
    word, *rest = reply.split(" ")
    if word in LATER_WORDS:
        return LATER
    if word not in ("MOVED", "ASK") or len(rest) != 2:
        return None
    told, _, port = rest[1].rpartition(":")
    # A node that does not know its own name means the address that it was reached at.
    name = told or host
    if name == "?" or not port.isdecimal():
        return LATER
    return Redirect(f"{name}:{port}", is_moved=word == "MOVED")
