"""What a cluster's node answers instead of a value: who has the key, or that nobody gives it now.  (pure)"""

from __future__ import annotations

from dataclasses import dataclass

LATER_WORDS = ("TRYAGAIN", "CLUSTERDOWN")
"""How refusals begin that concern a key's slot, and pass."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a key is to be asked for: ``address`` (``host:port``) is "" if nobody knows, for now.

    ``is_moved`` where its slot is that node's from now on; else this key alone is there already, and is given to those
    who say ``ASKING``.
    """

    address: str
    is_moved: bool = False


LATER = Redirect("")
ASKING = b"*1\r\n$6\r\nASKING\r\n"


def redirect_of(reply: str, host: str) -> Redirect | None:
    """Return what this refusal redirects to; None if it is no redirect. ``host`` is the one that answered."""
    word, *rest = reply.split(" ")
    if word in LATER_WORDS:
        return LATER
    if word not in ("MOVED", "ASK") or len(rest) != 2:
        return None
    told, _, port = rest[1].rpartition(":")
    # A node that does not know its own name means: where you have reached me.
    name = told or host
    if name == "?" or not port.isdecimal():
        return LATER
    return Redirect(f"{name}:{port}", is_moved=word == "MOVED")
