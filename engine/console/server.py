"""The console's pages over HTTP: what each is, who may have it, and how much of all that at once."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from engine.clock import now_ms
from engine.config import ConsoleSettings
from engine.console.guard import knows_token, names_this_host
from engine.console.lifeline import Lifeline
from engine.console.listening import Renewal
from engine.console.prometheus import SpanCounts, exposition
from engine.console.source import Source
from engine.console.view import encoded, history_of, history_view, live_view
from engine.observe.logs import get_logger
from engine.observe.ready import is_ready

log = get_logger(__name__)

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN = frozenset({"/healthz", "/readyz"})
"""What is answered without a token: it says yes or no, for those who probe."""
EVENTS_S = 1.0
"""How often a page is told what is new."""
RENEW_S = 5.0
"""How often the certificate's files are looked at."""
KEEP_S = 15.0
"""How long a connection may be idle between two requests."""
LINE_BYTES_MAX = 8_190
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Console:
    """The handlers; ``read_token`` returns the token that is wanted now, "" for none."""

    def __init__(
        self,
        source: Source,
        ring_bytes: int,
        timeout_s: float,
        read_token: Callable[[], str],
        *,
        checks_host: bool,
        spans: SpanCounts = dict,
    ) -> None:
        self._source = source
        self._ring_bytes = ring_bytes
        self._spans = spans
        self._timeout_s = timeout_s
        self._read_token = read_token
        self._checks_host = checks_host
        self.asked: set[object] = set()
        """Connections on which something was asked."""

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=1)
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status)
        app.router.add_get("/events", self._events, allow_head=False)
        for path in FILES:
            app.router.add_get(path, self._file)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        self.asked.add(request.protocol)
        log.debug("console_asked", method=request.method, path=request.path)
        if self._checks_host and not names_this_host(request.headers.get("Host", "")):
            return _refused(403)
        token = self._read_token()
        is_known = not token or knows_token(request.headers.get("Authorization", ""), token)
        if not (is_known or request.path in OPEN):
            # All paths alike, those that are not there too.
            return _refused(401)
        try:
            return await handler(request)
        except web.HTTPException as refusal:
            return _refused(refusal.status)
        except Exception as error:
            log.exception("console_failed", path=request.path, error=f"{type(error).__name__}: {error}")
            return _refused(500)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _said(self._source.status() is not None)

    async def _readyz(self, _request: web.Request) -> web.Response:
        status = self._source.status()
        return _said(status is not None and is_ready(status))

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        status, usages = self._source.latest(), self._source.usages()
        body, content_type = exposition(status, usages, self._ring_bytes, accept, self._spans())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _request: web.Request) -> web.Response:
        body = encoded(self._live() | history_view(history_of(self._source.status())))
        return web.Response(body=body, content_type="application/json")

    def _live(self) -> dict[str, Any]:
        return live_view(self._source.status(), self._source.usages(), now_ms())

    async def _file(self, request: web.Request) -> web.Response:
        name, content_type = FILES[request.path]
        return web.Response(body=(STATIC / name).read_bytes(), content_type=content_type, charset="utf-8")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Tell what is new until the other side is gone, or takes nothing any more; the history where it changes."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        told: dict[str, Any] = {}
        try:
            while True:
                event = b"data: %s\n\n" % encoded(self._live())
                history = history_of(self._source.status())
                if history != told:
                    told = history
                    event += b"event: history\ndata: %s\n\n" % encoded(history_view(history))
                await asyncio.wait_for(response.write(event), self._timeout_s)
                await asyncio.sleep(EVENTS_S)
        except (TimeoutError, OSError):
            if request.transport is not None:
                request.transport.abort()
        return response


def _said(is_well: bool) -> web.Response:
    return web.Response(text="ok\n" if is_well else "not ok\n", status=200 if is_well else 503)


def _refused(status: int) -> web.Response:
    headers = {"WWW-Authenticate": 'Basic realm="private", charset="UTF-8"'} if status == 401 else {}
    response = web.Response(status=status, headers=headers)
    response.force_close()
    return response


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def serve(
    console: Console, settings: ConsoleSettings, sock: socket.socket, tls: ssl.SSLContext | None, lifeline: Lifeline
) -> None:
    """Answer on this socket until the other end of the lifeline is closed."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    def heed() -> None:
        if lifeline.heed():
            is_over.set()

    loop.add_reader(lifeline.fileno(), heed)
    loop.set_exception_handler(lambda _loop, said: log.debug("console_connection", said=str(said.get("message"))))
    runner = web.AppRunner(
        console.application(),
        access_log=None,
        logger=_nobody(),
        keepalive_timeout=KEEP_S,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
        handler_cancellation=True,
        handle_signals=False,
    )
    await runner.setup()
    assert runner.server is not None
    bounded = Bounded(runner.server, settings.connections_max, settings.request_timeout_s, console.asked)
    handshake_s = settings.request_timeout_s if tls is not None else None
    server = await loop.create_server(bounded, sock=sock, ssl=tls, ssl_handshake_timeout=handshake_s)
    renewing = loop.create_task(_renew(Renewal(settings, tls))) if tls is not None else None
    await is_over.wait()
    if renewing is not None:
        renewing.cancel()
    server.close()


async def _renew(renewal: Renewal) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        renewal.look()


def _nobody() -> logging.Logger:
    """Return a logger for what others get wrong: it is answered, and nobody here can mend it."""
    logger = logging.getLogger("engine.console.requests")
    logger.disabled = True
    return logger


class Bounded:
    """Makes a protocol for each connection: at most so many, and none on which nothing is asked in time."""

    def __init__(self, server: web.Server, most: int, timeout_s: float, asked: set[object]) -> None:
        self._server = server
        self._most = most
        self._timeout_s = timeout_s
        self._asked = asked

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        self._asked.intersection_update(self._server.connections)
        if len(self._server.connections) >= self._most:
            return _Turned()
        protocol: web.RequestHandler = self._server()
        asyncio.get_running_loop().call_later(self._timeout_s, self._look_at, protocol)
        return protocol

    def _look_at(self, protocol: web.RequestHandler) -> None:
        if protocol not in self._asked:
            protocol.force_close()


class _Turned(asyncio.Protocol):
    """Ends a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it at once."""
        transport.close()
