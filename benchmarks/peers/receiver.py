"""What all of them deliver to: a service that accepts every batch and notes it, or refuses all for a while.

It answers as Lambda does, for the engine; for others it is an HTTP endpoint that takes ``{"records": […]}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import time
from pathlib import Path

from aiohttp import web

from benchmarks.lag.stages import Clocks, Received, read_journal
from benchmarks.stand.processes import die_with_parent

BODY_BYTES_MAX = 16 * 1024 * 1024
PATH = "/2015-03-31/functions/accept/invocations"
_REFUSAL = b'{"Message":"refused for a while"}'
_EMPTY = b'{"records":[]}'
_fork = multiprocessing.get_context("fork")


class Receiver:
    """The service, in a process of its own; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "arrivals.jsonl"
        self._marker = folder / "refuses"
        self._journal.touch()
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        arguments = (listener, self._journal, self._marker)
        self._process = _fork.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        listener.close()

    @property
    def url(self) -> str:
        """Return where batches are sent to."""
        return self.endpoint + PATH

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def refuse(self, refuses: bool) -> None:
        """Answer 500 from now on, or accept again."""
        if refuses:
            self._marker.touch()
        else:
            self._marker.unlink(missing_ok=True)

    def received(self, clocks: Clocks) -> Received:
        """Return everything that was accepted so far."""
        return read_journal(self._journal, clocks)

    def size(self) -> int:
        """Return how much was noted: it grows with every batch."""
        return self._journal.stat().st_size

    def requests(self) -> int:
        """Return how many batches were accepted."""
        with self._journal.open("rb") as file:
            return sum(1 for _ in file)


def _run(listener: socket.socket, journal: Path, marker: Path) -> None:
    die_with_parent()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(listener, journal, marker))


async def _serve(listener: socket.socket, journal: Path, marker: Path) -> None:
    with journal.open("ab", buffering=0) as file:

        async def answer(request: web.Request) -> web.Response:
            if request.headers.get("X-Amz-Invocation-Type") == "DryRun":
                return web.Response(status=204)
            body = await request.read()
            if body.strip() == _EMPTY:
                return web.json_response({"batchItemFailures": []})
            if marker.exists():
                return web.Response(status=500, body=_REFUSAL, content_type="application/json")
            now_ns = time.time_ns()
            line = body.replace(b"\n", b" ")
            file.write(b'{"started_ns":%d,"ended_ns":%d,"event":%s}\n' % (now_ns, now_ns, line))
            return web.json_response({"batchItemFailures": []})

        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()
