"""Answers to a look, as servers give them, for tests that change one of them."""

from __future__ import annotations

from typing import Any

import hiredis

from engine.capture.watch.sight import QUESTIONS, Sight, read

DENIED = hiredis.ReplyError("NOPERM")
TIME_S = 1_700_000_000
ANSWERS: dict[str, Any] = {
    "TIME": [str(TIME_S).encode(), b"123456"],
    "CONFIG": [b"notify-keyspace-events", b"Khg"],
    "server": b"redis_version:7.2.4\r\nvalkey_version:9.1.2\r\ngcc_version:14.2.1\r\nrun_id:abc123\r\nlru_clock:%d\r\n"
    % (TIME_S % 2**24),
    "persistence": b"loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\naof_rewrite_in_progress:0\r\n"
    b"module_fork_in_progress:0\r\n",
    "stats": b"total_commands_processed:900\r\ntotal_forks:3\r\nexpired_fields:0\r\n",
    "replication": b"role:master\r\nmaster_replid:aaa\r\nmaster_replid2:000\r\nmaster_repl_offset:500\r\n",
    "memory": b"maxmemory_policy:noeviction\r\n",
    "commandstats": b"cmdstat_config|set:calls=4,usec=1\r\ncmdstat_flushall:calls=2,usec=1\r\n"
    b"cmdstat_flushdb:calls=1,usec=1\r\n",
    "CLIENT": b"",
}
REPLICA = {
    "replication": b"role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\nmaster_replid:aaa\r\n"
    b"master_replid2:000\r\nmaster_repl_offset:500\r\n",
    "CLIENT": b"id=7 addr=127.0.0.1:1 flags=M\n",
}


def answers(**changed: Any) -> list[Any]:
    """Return what a server answers to a look; ``changed`` by the question's command, or section of ``INFO``."""
    given = ANSWERS | changed
    return [given[question[1] if question[0] == "INFO" else question[0]] for question in QUESTIONS]


def look(**changed: Any) -> Sight:
    """Return what a look sees that gets these answers."""
    return read("here", answers(**changed))


def edited(name: str, *edits: tuple[str, str], of: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an answer in which each first text is replaced by its second."""
    known = ANSWERS | (of or {})
    text: bytes = known[name]
    for old, new in edits:
        assert old.encode() in text
        text = text.replace(old.encode(), new.encode())
    return {**(of or {}), name: text}
