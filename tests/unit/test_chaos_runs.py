from __future__ import annotations

import contextlib
import http.client
import threading
from pathlib import Path

from tests.chaos.pool import own_folder
from tests.chaos.proxies.http_proxy import Action, BlackHole, HttpFaultProxy, Request
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
