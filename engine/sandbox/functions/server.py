"""The Lambda runtime's process: the Invoke API over HTTP, before the workers.

Run as ``python -m engine.sandbox.functions.server``, by :class:`engine.sandbox.functions.runtime.LambdaRuntime`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import StreamReader, web

from engine.sandbox import lifeline
from engine.sandbox.functions import api
from engine.sandbox.functions.api import Refusal
from engine.sandbox.functions.journal import Entry, Journal
from engine.sandbox.functions.pool import Answer, InitFailed, WorkerPool
from engine.sandbox.functions.spec import ACCEPT, FunctionSpec

EVENTS_WAITING_MAX = 1_000
BODY_BYTES_MAX = 64 * 1024 * 1024
RELOAD_LOOK_S = 0.25
_READ_BUFFER_BYTES = 1024 * 1024
_KEEP_OPEN_S = 3_600.0
_ACCEPTED = b'{"batchItemFailures": []}'
_HEADERS = {"Content-Type": "application/json", "X-Amz-Executed-Version": "$LATEST"}


class LambdaServer:
    """Answers requests; has one pool of workers a function, none for a stand-in."""

    def __init__(self, functions: list[FunctionSpec], environment: Mapping[str, str], journal: Journal | None) -> None:
        self._specs = {spec.name: spec for spec in functions}
        self._pools = {spec.name: WorkerPool(spec, environment) for spec in functions if spec.handler != ACCEPT}
        self._journal = journal
        self._events: set[asyncio.Task[None]] = set()

    async def warm(self) -> str:
        """Start a first worker of each function; return what is wrong with the first that fails, or nothing."""
        pools = list(self._pools.values())
        for pool, failure in zip(
            pools, await asyncio.gather(*(pool.warm() for pool in pools), return_exceptions=True), strict=True
        ):
            if isinstance(failure, InitFailed):
                return f"function {pool.spec.name}: handler {pool.spec.handler} does not import: {failure}"
            if failure is not None:
                raise failure
        return ""

    async def reload(self) -> None:
        """Look again and again whether functions changed that reload."""
        while pools := [pool for pool in self._pools.values() if pool.spec.reloads]:
            await asyncio.sleep(RELOAD_LOOK_S)
            for pool in pools:
                await pool.reload()

    def close(self) -> None:
        """End all workers, and write the rest of the journal."""
        for task in self._events:
            task.cancel()
        for pool in self._pools.values():
            pool.close()
        if self._journal is not None:
            self._journal.close()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        request_id = str(uuid4())
        try:
            return await self._route(request, request_id)
        except ConnectionError:
            raise
        except Exception as error:
            traceback.print_exc()
            return _refuse(api.failed(f"{type(error).__name__}: {error}"), request_id)

    async def _route(self, request: web.BaseRequest, request_id: str) -> web.Response:
        if "Expect" in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        payload, size = await _read_body(request.content)
        started_ns = time.time_ns()
        call = api.parse_call(request.method, request.raw_path)
        if call is None:
            return _refuse(api.unknown_operation(), request_id)
        spec = self._specs.get(call.function)
        if spec is None:
            arn = FunctionSpec("x", ACCEPT).arn.removesuffix("x") + call.function
            return _refuse(api.not_found(arn), request_id)
        if call.operation == "GetFunction":
            return _respond(200, api.describe(spec), request_id)
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        refusal = _check(kind, size)
        if refusal is None and kind == "DryRun":
            return web.Response(status=204, headers={"x-amzn-RequestId": request_id})
        if refusal is None and kind == "Event":
            return self._accept_event(spec, request_id, payload, started_ns)
        context = api.client_context(request.headers.get("X-Amz-Client-Context", ""))
        outcome = refusal or context.refusal or await self._invoke(spec, request_id, payload, context.text)
        return self._finish(spec, request_id, payload, started_ns, outcome)

    async def _invoke(
        self, spec: FunctionSpec, request_id: str, payload: bytes, client_context: str
    ) -> Answer | Refusal | None:
        """Run the function; None means that the stand-in has accepted."""
        pool = self._pools.get(spec.name)
        if pool is None:
            return None
        if not pool.has_room():
            return api.throttled()
        answer = await pool.invoke(request_id, payload, client_context)
        return api.invalid_json(answer.body.decode()) if answer.invalid else answer

    def _finish(
        self,
        spec: FunctionSpec,
        request_id: str,
        payload: bytes,
        started_ns: int,
        outcome: Answer | Refusal | None,
    ) -> web.Response:
        """Note what came of an invocation, and tell the caller."""
        if outcome is None:
            self._note(spec, payload, started_ns, 200, "", None)
            return _respond(200, _ACCEPTED, request_id)
        if isinstance(outcome, Refusal):
            self._note(spec, payload, started_ns, outcome.status, outcome.code, None)
            return _refuse(outcome, request_id)
        self._note(spec, payload, started_ns, 200, outcome.error, outcome.records)
        response = _respond(200, outcome.body, request_id)
        if outcome.error:
            response.headers["X-Amz-Function-Error"] = "Unhandled"
        return response

    def _accept_event(self, spec: FunctionSpec, request_id: str, payload: bytes, started_ns: int) -> web.Response:
        if len(self._events) >= EVENTS_WAITING_MAX:
            return _refuse(api.throttled(), request_id)
        task = asyncio.create_task(self._run_event(spec, request_id, payload, started_ns))
        self._events.add(task)
        task.add_done_callback(self._events.discard)
        return _respond(202, b"", request_id)

    async def _run_event(self, spec: FunctionSpec, request_id: str, payload: bytes, started_ns: int) -> None:
        pool = self._pools.get(spec.name)
        if pool is None:
            self._note(spec, payload, started_ns, 202, "", None)
            return
        await pool.wait_for_room()
        answer = await pool.invoke(request_id, payload)
        error = "InvalidRequestContentException" if answer.invalid else answer.error
        self._note(spec, payload, started_ns, 202, error, answer.records)

    def _note(
        self, spec: FunctionSpec, payload: bytes, started_ns: int, status: int, error: str, records: int | None
    ) -> None:
        if self._journal is not None:
            entry = Entry(spec.name, started_ns, time.time_ns(), status, error, payload, records)
            self._journal.note(entry)


def _check(kind: str, size: int) -> Refusal | None:
    """Return why an invocation is refused before anything is run, or None."""
    if kind not in ("RequestResponse", "Event", "DryRun"):
        return api.bad_parameter(f"{kind} is not a valid invocation type")
    bytes_max = api.EVENT_BYTES_MAX if kind == "Event" else api.REQUEST_BYTES_MAX
    return api.too_large(size, kind, bytes_max) if size > bytes_max else None


async def _read_body(content: StreamReader) -> tuple[bytes, int]:
    """Return the body and its size; of one that is too large only the size.

    It is read to its end even so: a caller whose connection closes while it still writes never sees the answer.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await content.readany():
        size += len(chunk)
        if size <= api.REQUEST_BYTES_MAX:
            chunks.append(chunk)
        elif size > BODY_BYTES_MAX:
            raise ConnectionResetError
        else:
            chunks.clear()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks), size


def _respond(status: int, body: bytes, request_id: str) -> web.Response:
    return web.Response(status=status, body=body, headers=_HEADERS | {"x-amzn-RequestId": request_id})


def _refuse(refusal: Refusal, request_id: str) -> web.Response:
    response = _respond(refusal.status, refusal.body, request_id)
    response.headers["x-amzn-ErrorType"] = refusal.code
    return response


async def serve(told: Mapping[str, Any]) -> None:
    """Answer requests on the inherited socket until terminated, or until the parent is gone."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)

    def stop_from_thread() -> None:
        loop.call_soon_threadsafe(stopping.set)

    lifeline.watch_lifeline(stop_from_thread)
    journal = Journal(Path(told["journal"]), payloads=told["journal_payloads"]) if told["journal"] else None
    server = LambdaServer([FunctionSpec(**spec) for spec in told["functions"]], told["environment"], journal)
    try:
        problem = await server.warm()
        if problem:
            lifeline.announce_failure(problem, "a handler is module:function, and must be on the Python path")
            return
        http = web.Server(
            server.handle,
            access_log=None,
            keepalive_timeout=_KEEP_OPEN_S,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        listener = await loop.create_server(http, sock=socket.socket(fileno=told["socket"]))
        lifeline.announce_ready()
        reloading = asyncio.create_task(server.reload())
        await stopping.wait()
        reloading.cancel()
        listener.close()
    finally:
        server.close()


def main() -> None:
    """Do as the parent says."""
    told = lifeline.read_instructions()
    try:
        asyncio.run(serve(told))
    except OSError as error:
        lifeline.announce_failure(f"the Lambda runtime can't start: {error}", "is the journal's folder there?")
        sys.exit(1)


if __name__ == "__main__":
    main()
