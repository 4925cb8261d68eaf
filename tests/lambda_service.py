"""A Lambda service that answers as a test tells it, and a target that asks it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

import pytest

from engine.aws import access
from engine.clock import monotonic_ms
from engine.config import AwsSettings, DeliverySettings
from engine.delivery.lanes.work import Batch
from engine.delivery.sockets import Sockets
from engine.delivery.targets.base import OnTheLoop, Target
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.delivery.targets.make import flights_of
from engine.model import Outcome

WAIT_S = 30.0
PAYLOAD = b'{"records":[]}'


class Service(ThreadingHTTPServer):
    """Answers as the script says, and keeps what it was asked."""

    daemon_threads = True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"null")
    delay_s = 0.0
    lacking_bytes = 0
    hangs_up = False
    connections = 0
    is_looped = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers.items()), body))
        time.sleep(self.server.delay_s)
        status, headers, answer = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer) + self.server.lacking_bytes))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = self.server.hangs_up or bool(self.server.lacking_bytes)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, *, is_looped: bool) -> Iterator[Service]:
    """Run a service, in an environment that has credentials and nothing else of AWS's."""
    # What a process knows of AWS is that of the test before.
    monkeypatch.setattr(access, "_known", {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    for name in [*os.environ]:
        if name.startswith("AWS_") and name not in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}:
            monkeypatch.delenv(name)
        if name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    server = Service()
    server.is_looped = is_looped
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class InTheLoop:
    """A target as an invoker has it: its deliveries are on a loop of the test's own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sockets = Sockets()
        self.ended: list[Outcome] = []
        self._todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.flights: Any = self._made()

    def _made(self) -> OnTheLoop:
        return flights_of(self.target, self.sockets, self._aside, lambda _, outcome: self.ended.append(outcome))

    def _aside(self, work: Callable[[], Callable[[], None]]) -> None:
        threading.Thread(target=lambda: self._todo.put(work()), daemon=True).start()

    def turn(self) -> None:
        """Serve what is ready now."""
        while not self._todo.empty():
            self._todo.get()()
        self.sockets.wait(2)
        self.sockets.expire(monotonic_ms())

    def start(self, payload: bytes) -> None:
        """Begin an invocation."""
        batch = Batch([])
        batch.payload = payload
        self.flights.start(batch)

    def invoke(self, payload: bytes) -> Outcome:
        """Invoke, and turn until there is an outcome."""
        self.ended.clear()
        self.start(payload)
        deadline = time.monotonic() + WAIT_S
        while not self.ended:
            assert time.monotonic() < deadline, "no outcome"
            self.turn()
        return self.ended[0]

    def close(self) -> None:
        """Close idle connections, and use no others for long."""
        self.flights.close()
        self.flights = self._made()


def target(
    service: Service, function: str = "carts", *, report: bool = True, **delivery: int
) -> LambdaTarget | InTheLoop:
    """Return a target in the way that the test's service was made for: by threads, or in the loop."""
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    return made_for(service, aws, function, report=report, **delivery)


def made_for(
    service: Service, aws: AwsSettings, function: str = "carts", *, report: bool = True, **delivery: int
) -> LambdaTarget | InTheLoop:
    """Return a target that reaches AWS by these settings."""
    made = LambdaTarget(function, aws, DeliverySettings(**delivery), report_item_failures=report, connections_max=8)
    return InTheLoop(made) if service.is_looped else made
