from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import redis

from tests.chaos.ledger import Answer, Sent
from tests.chaos.pool import own_folder
from tests.chaos.proxies.http_proxy import Action, BlackHole, HttpFaultProxy, Request
from tests.chaos.writer import Writer
from tests.support import wait_for


def test_a_proxy_closes_while_a_call_hangs() -> None:
    """A call that will not be answered for an hour does not keep its proxy open."""
    seen: list[Request] = []

    def hang(request: Request) -> Action:
        seen.append(request)
        return BlackHole(3_600)

    proxy = HttpFaultProxy("http://127.0.0.1:1")
    proxy.rule = hang
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=60)

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/", b"body")
            connection.getresponse()

    caller = threading.Thread(target=call)
    caller.start()
    wait_for(lambda: seen, "the call")
    proxy.close()
    caller.join(60)
    assert not caller.is_alive()
    connection.close()


def test_runs_at_once_share_no_folder(tmp_path: Path) -> None:
    """Two runs with the same seed keep their logs apart."""
    first, second = (own_folder(tmp_path / "chaos", 7) for _ in range(2))
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


class Unreachable:
    """A link on which nothing comes through while it is cut."""

    def __init__(self) -> None:
        self.is_cut = False
        self.lost = 0

    def exchange(self, entries: Sequence[Sent]) -> list[int]:
        if self.is_cut:
            self.lost += 1
            raise redis.ConnectionError("cut")
        for entry in entries:
            entry.answer = Answer.ACKNOWLEDGED
        return [1] * len(entries)

    def close(self) -> None:
        pass


def test_every_key_is_changed_while_the_engine_runs() -> None:
    """What an outage keeps from its first change is changed in the end: the engine owes nothing of what is not."""
    link = Unreachable()
    writer = Writer(lambda: link, Random(1), keys=40, rate=1_000.0)
    writer.preload()
    begun, link.is_cut = len(writer.ledger.entries), True
    writer.start()
    wait_for(lambda: link.lost > 5, "changes are lost")
    link.is_cut = False
    writer.stop()
    changed = {entry.words[1] for entry in writer.ledger.entries[begun:] if entry.answer is Answer.ACKNOWLEDGED}
    assert changed == set(writer.keys)
