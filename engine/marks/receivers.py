"""Who hears what is published, by the server's list of its subscribed clients.  (pure)

`PUBLISH` counts receivers, whoever they are. A monitor that subscribes to everything delivers nothing. So an engine has
heard a message only if it had more receivers than all others together can account for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SUBSCRIBER_NAME = b"engine-subscriber-"
"""The beginning of the name of a subscriber's connection."""

_FIELDS = re.compile(rb"(?:^| )(name|sub|psub)=(\S*)")


@dataclass(frozen=True, slots=True)
class Receivers:
    """How many subscribers of engines there are, and how often all others together may receive one message."""

    engines: int
    others_max: int


def receivers(clients: object) -> Receivers | None:
    """Return what ``CLIENT LIST TYPE pubsub`` says; None if it was refused."""
    if not isinstance(clients, bytes):
        return None
    engines = others_max = 0
    for line in clients.splitlines():
        fields = dict(_FIELDS.findall(line))
        if fields.get(b"name", b"").startswith(SUBSCRIBER_NAME):
            engines += 1
        else:
            # Once for its channel, and once for each pattern that matches.
            others_max += int(fields.get(b"psub") or 0) + bool(int(fields.get(b"sub") or 0))
    return Receivers(engines, others_max)
