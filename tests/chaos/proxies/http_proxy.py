"""The way to a service that speaks HTTP, with faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.chaos.proxies.loop import Door, LoopThread, reset

HOST = "127.0.0.1"
BODY_BYTES_MAX = 64 * 1024 * 1024
EFFECTS_WAITING_MAX = 10_000
_KEEP_OPEN_S = 3_600.0
_CLOSE_S = 0.001
"""How long calls that hang have to end by themselves; 0 would mean for ever to aiohttp."""
_READ_BUFFER_BYTES = 1024 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "upgrade"}
_ADDED_BY_AIOHTTP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


@dataclass(frozen=True, slots=True)
class Request:
    """What a rule is asked about; ``number`` counts from 1, in the order of arrival."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int


class Action:
    """What is done with a request."""


@dataclass(frozen=True, slots=True)
class Pass(Action):
    """Pass it on, and its answer back; both after a while where that is given."""

    before_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer(Action):
    """Answer it without passing it on. With ``cut``, break off after so many bytes of the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


@dataclass(frozen=True, slots=True)
class PassThenReset(Action):
    """Let it take its effect, then break the connection with a RST in place of the answer."""


@dataclass(frozen=True, slots=True)
class DelayedEffect(Action):
    """Break the connection with a RST at once, and pass the request on so much later: the effect without an answer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset(Action):
    """Break the connection with a RST; the request has no effect."""


@dataclass(frozen=True, slots=True)
class BlackHole(Action):
    """Say nothing for so long, then break the connection; the request has no effect."""

    seconds: float


@dataclass(frozen=True, slots=True)
class MangleAnswer(Action):
    """Pass it on, with another body where one is given, and answer what the function makes of the answer."""

    mangle: Callable[[Answer], Answer]
    body: bytes | None = None


Rule = Callable[[Request], Action]


def pass_all(request: Request) -> Action:
    """Do no harm."""
    return Pass()


class HttpFaultProxy:
    """An HTTP proxy in front of a service on this host, which listens once made.

    ``rule`` may be replaced at any time, from any thread; it is called on the proxy's own, one request at a time, and
    must not block. ``struck`` counts the actions that were carried out, by their names; ``effects`` holds what came of
    delayed requests (HTTP statuses, 0 for none), ``failures`` what went wrong without being asked for.
    """

    def __init__(self, target_endpoint: str) -> None:
        self.rule: Rule = pass_all
        self.struck: Counter[str] = Counter()
        self.effects: list[int] = []
        self.failures: list[str] = []
        self._target = target_endpoint.rstrip("/")
        self._door = Door(HOST)
        self._numbers = 0
        self._thread: LoopThread | None = None
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._session: aiohttp.ClientSession | None = None
        self._effects_waiting: set[asyncio.Task[None]] = set()
        self.start()

    @property
    def endpoint(self) -> str:
        """Return the proxy's own address."""
        return f"http://{HOST}:{self._door.port}"

    @property
    def effects_waiting(self) -> int:
        """Return how many delayed requests are still to be passed on, or under way."""
        return len(self._effects_waiting)

    def start(self) -> Self:
        """Listen; does nothing where it already does."""
        if self._thread is None:
            self._thread = LoopThread("http proxy")
            self._thread.await_(self._open())
        return self

    def close(self) -> None:
        """Drop everything, delayed requests too, and give the port away."""
        if self._thread is not None:
            self._thread.await_(self._shut())
            self._thread.await_(self._end())
            self._thread.close()
            self._thread = None
        self._door.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def refuse(self, on: bool) -> None:
        """Refuse new connections and drop those that are, or listen again."""
        assert self._thread is not None, "the proxy is not started"
        self._thread.await_(self._shut() if on else self._listen())

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        )
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._http = web.Server(
                self._handle, access_log=None, keepalive_timeout=_KEEP_OPEN_S, read_bufsize=_READ_BUFFER_BYTES
            )
            self._server = await asyncio.get_running_loop().create_server(self._http, sock=self._door.open())

    async def _shut(self) -> None:
        if self._server is None or self._http is None:
            return
        self._server.close()
        for connection in self._http.connections:
            reset(connection.transport)
        await self._http.shutdown(timeout=_CLOSE_S)
        self._server = self._http = None

    async def _end(self) -> None:
        for task in self._effects_waiting:
            task.cancel()
        assert self._session is not None
        await self._session.close()

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        request = await self._read(incoming)
        try:
            action = self.rule(request)
        except Exception as error:
            self.failures.append(f"the rule failed: {error!r}")
            return web.Response(status=500, text=f"the rule failed: {error!r}")
        name = type(action).__name__
        answer = await self._perform(action, request)
        self.struck[name] += 1
        if answer is None:
            reset(incoming.transport)
            return web.Response()  # nobody hears it
        return await _respond(incoming, answer)

    async def _perform(self, action: Action, request: Request) -> Answer | None:
        """Do it; None means that the connection is to be broken."""
        match action:
            case Pass(before_s, after_s):
                await asyncio.sleep(before_s)
                answer = await self._forward(request, request.body)
                await asyncio.sleep(after_s)
                return answer
            case Answer():
                return action
            case PassThenReset():
                await self._forward(request, request.body)
            case DelayedEffect(seconds):
                self._later(seconds, request)
            case BlackHole(seconds):
                await asyncio.sleep(seconds)
            case MangleAnswer(mangle, body):
                passed = await self._forward(request, request.body if body is None else body)
                return None if passed is None else mangle(passed)
        return None

    async def _read(self, incoming: web.BaseRequest) -> Request:
        if "Expect" in incoming.headers:
            await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks: list[bytes] = []
        size = 0
        while chunk := await incoming.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise ConnectionResetError
        self._numbers += 1
        return Request(incoming.method, incoming.raw_path, incoming.headers, b"".join(chunks), self._numbers)

    async def _forward(self, request: Request, body: bytes) -> Answer | None:
        """Pass a request on; None where the service does not answer."""
        assert self._session is not None
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        url = URL(self._target + request.path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False
            ) as response:
                kept = {name: value for name, value in response.headers.items() if name.lower() not in _HOP_BY_HOP}
                return Answer(response.status, kept, await response.read())
        except aiohttp.ClientError as error:
            self.failures.append(f"the service did not answer: {error!r}")
            return None

    def _later(self, seconds: float, request: Request) -> None:
        assert len(self._effects_waiting) < EFFECTS_WAITING_MAX
        task = asyncio.create_task(self._take_effect(seconds, request))
        self._effects_waiting.add(task)
        task.add_done_callback(self._effects_waiting.discard)

    async def _take_effect(self, seconds: float, request: Request) -> None:
        await asyncio.sleep(seconds)
        answer = await self._forward(request, request.body)
        self.effects.append(0 if answer is None else answer.status)


async def _respond(incoming: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    if answer.cut is None:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(incoming)
    await response.write(answer.body[: answer.cut])
    assert incoming.transport is not None
    incoming.transport.close()
    return response
