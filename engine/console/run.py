"""The console's process: it sends OTLP, listens as soon as it may, and answers until the supervisor is gone."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.clock import now_ms
from engine.config import Settings
from engine.console.address import parse
from engine.console.lifeline import Lifeline
from engine.console.listening import listen, tls
from engine.errors import EngineError
from engine.observe.logs import get_logger
from engine.ring.counters import StatusRow

if TYPE_CHECKING:
    from engine.console.prometheus import SpanCounts

log = get_logger(__name__)

RETRY_S = 5.0
"""How soon a port that was in use is retried."""


def run_console(
    settings: Settings, lifeline: int, rows: Sequence[StatusRow] = (), spans: socket.socket | None = None
) -> int:
    """Answer, and send what is to be sent, until the other end of the lifeline is closed; return the exit status.

    ``rows`` are the engine's counters in shared memory, as the status has its children; none: the status alone is read.
    ``spans`` is where invokers tell what was traced.
    """
    from engine.console.otlp.telemetry import Telemetry

    # Before there is a port: what is sent does not wait for it.
    telemetry = Telemetry(settings, rows, spans)
    if settings.console.listen:
        _answer(settings, rows, Lifeline(lifeline), telemetry.spans)
    else:
        Lifeline(lifeline).wait()
    telemetry.close()
    return 0


def _answer(settings: Settings, rows: Sequence[StatusRow], lifeline: Lifeline, spans: SpanCounts) -> None:
    console = settings.console
    address = parse(console.listen)
    ready = _listen(lambda: (listen(address), tls(console)), lifeline)
    if ready is None:
        return
    sock, context = ready

    # Only now: who waits for a port needs none of this.
    import asyncio

    from engine.console.server import Console, serve
    from engine.console.source import Source

    source = Source(settings.supervision.status_file, now_ms, rows)
    token = _token_reader(console.token_file)
    checks_host = not (address.path or console.token_file)
    handlers = Console(
        source, settings.ring.ring_bytes, console.request_timeout_s, token, checks_host=checks_host, spans=spans
    )
    scheme = "" if address.path else "https://" if context else "http://"
    log.info("console", listen=f"{scheme}{address}")
    asyncio.run(serve(handlers, console, sock, context, lifeline))


def _listen(
    make: Callable[[], tuple[socket.socket, ssl.SSLContext | None]], lifeline: Lifeline
) -> tuple[socket.socket, ssl.SSLContext | None] | None:
    """Return what listens, tried for as long as it takes; None if the supervisor is gone before."""
    said = ""
    while True:
        try:
            return make()
        except EngineError as error:
            if error.message != said:
                said = error.message
                log.error("console_unavailable", error=error.message, hint=error.hint)
        if lifeline.wait(RETRY_S):
            return None


def _token_reader(path: str) -> Callable[[], str]:
    """Return what reads the token, again whenever its file has changed; one that cannot be read stays as it was."""
    if not path:
        return lambda: ""
    known: tuple[int, str] = (0, "")

    def read() -> str:
        nonlocal known
        try:
            changed_ns = Path(path).stat().st_mtime_ns
            if changed_ns != known[0]:
                text = Path(path).read_text("utf-8").strip()
                known = (changed_ns, text or known[1])
        except (OSError, UnicodeDecodeError):
            pass
        # Nobody knows a token that was never read.
        return known[1] or os.urandom(16).hex()

    return read
