"""What a look will not see for lack of a right, reported before the start, with its cost."""

from __future__ import annotations

from typing import Any

import hiredis

from engine.capture.watch.keepsake import KEY, Keepsake
from engine.redis.connection import RespConnection


def unseen(connection: RespConnection, user: str) -> list[str]:
    """Return a warning for each thing that the server hides from this user, and for what it cannot report at all."""
    warnings = []
    info: Any = connection.call("INFO", "commandstats")
    if isinstance(info, hiredis.ReplyError):
        warnings.append(_without_info(connection, user, str(info)))
    elif connection.facts.get("server") == "redis" and connection.facts.get("version", "").startswith("6."):
        warnings.append(
            "Redis 6 does not count subcommands: flags that are switched off and on again within a second go "
            "unnoticed, and a repair delivers every key of its shard"
        )
    if connection.facts.get("role") not in {"master", "primary", None}:
        clients = connection.call("CLIENT", "LIST", "TYPE", "master")
        if isinstance(clients, hiredis.ReplyError):
            warnings.append(
                f"the server does not let the engine list its clients ({clients}): a replica that is resynchronized "
                f"between two looks goes unnoticed; grant it: ACL SETUSER {user} +client|list"
            )
    return warnings


def _without_info(connection: RespConnection, user: str, refusal: str) -> str:
    keepsake = Keepsake()
    questions = keepsake.questions(0)
    word = keepsake.take(connection.pipeline(b"".join(questions), len(questions)))
    if word is None:
        flushes = f"goes unnoticed, because the engine may not keep the key {KEY.decode()} either (+set +get +expire)"
    else:
        flushes = f"shows by the key {KEY.decode()} alone, which the engine keeps for that"
    return (
        f"the server does not let the engine run INFO ({refusal}): a keyspace that is flushed, swapped or replaced "
        f"{flushes}; flags that are switched off and on again within a second go unnoticed, and a repair delivers "
        f"every key of its shard; grant it: ACL SETUSER {user} +info"
    )
