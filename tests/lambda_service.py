"""A Lambda service that answers as a test tells it, and a target that asks it."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.lambda_ import LambdaTarget

PAYLOAD = b'{"records":[]}'


class Service(ThreadingHTTPServer):
    """Answers as the script says, and keeps what it was asked."""

    daemon_threads = True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"null")
    delay_s = 0.0
    lacking_bytes = 0
    hangs_up = False
    connections = 0

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


def target(service: Service, function: str = "carts", *, report: bool = True, **delivery: int) -> LambdaTarget:
    aws = AwsSettings(region="eu-west-1", lambda_endpoint_url=service.url)
    return LambdaTarget(function, aws, DeliverySettings(**delivery), report_item_failures=report, connections_max=8)
