"""A checkpoint of one database as one of several, or the reverse.  (pure)

The server and its clock are the same, so the watermark stays valid. A database that was not captured before is like a
new route: what changed in it since the watermark is found, and with ``TRIM_HORIZON`` all of it, since what routes have
had is recorded with the globs that they had it for.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from engine.routing.databases import ALL, keys_inside, keys_of
from engine.routing.slices import server_of
from engine.supervision.progress.checkpoint import HEARD_SINCE_FORMAT, Checkpoint


def database_of(scope: str) -> int | None:
    """Return the one database of a scope; None if there are several, or it names none."""
    _, slash, number = server_of(scope).rpartition("/")
    return int(number) if slash and number.isdigit() else None


def among_databases(found: Checkpoint, scope: str, databases: Sequence[int]) -> Checkpoint:
    """Return the checkpoint as one of these databases of the same server, if it has any of them; else as it is."""
    server, part = server_of(found.scope), found.scope.removeprefix(server_of(found.scope))
    place, slash, were = server.rpartition("/")
    place_now, _, are = server_of(scope).rpartition("/")
    if not slash or place != place_now or were == are:
        return found
    if are == ALL and were.isdigit() and int(were) in databases:
        heard = {name: replace(one, keys=keys_inside(one.keys, (int(were),))) for name, one in found.heard.items()}
        # An old checkpoint does not say which keys a route has had.
        routes = found.routes if found.format >= HEARD_SINCE_FORMAT else ()
        return replace(found, scope=server_of(scope) + part, heard=heard, routes=routes)
    if were == ALL and are.isdigit() and int(are) in found.databases:
        heard = {name: replace(one, keys=keys_of(one.keys, int(are))) for name, one in found.heard.items()}
        return replace(found, scope=server_of(scope) + part, heard=heard, databases=())
    return found
