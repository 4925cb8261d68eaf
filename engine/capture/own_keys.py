"""Keys of the engine's own in the server that it captures: canaries, and the key that stays.  (pure)

They are not user data. A node of a cluster accepts only keys of its own slots, so their names hold a tag that leads
there; every engine finds the same one.
"""

from __future__ import annotations

from itertools import count

from engine.routing.nodes import Node, slot_of

CANARY_PREFIX = "__engine_canary__"
STAYS = "stays"


def is_own(key: bytes) -> bool:
    """Tell whether a key is one of these."""
    return key.startswith(CANARY_PREFIX.encode())


def tag_of(node: Node) -> str | None:
    """Return the tag that places them in a slot of this node: "" if it has all slots, None if it has none."""
    if node.has_all():
        return ""
    if not node.slots:
        return None
    tags = (f"{{{number}}}" for number in count())
    return next(tag for tag in tags if node.has_slot(slot_of(tag.encode())))


def own_key(tag: str, what: str) -> str:
    """Return the name of one of them."""
    return f"{CANARY_PREFIX}{tag}{what}"
