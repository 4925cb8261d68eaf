"""A receiver of OTLP/HTTP that keeps what it is sent: real requests, parsed by the protocol's own messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class OtlpReceiver:
    """What came, newest last; ``answers_with`` is the status of what comes next."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answers_with = 200
        self.refused = 0
        self._lock = threading.Lock()
        self._metrics: list[Any] = []
        self._traces: list[Any] = []

    def take(self, path: str, body: bytes) -> int:
        with self._lock:
            if self.answers_with != 200:
                self.refused += 1
                return self.answers_with
            if path == "/v1/metrics":
                self._metrics += ExportMetricsServiceRequest.FromString(body).resource_metrics
            elif path == "/v1/traces":
                self._traces += ExportTraceServiceRequest.FromString(body).resource_spans
            else:
                return 404
        return 200

    def metrics(self) -> dict[str, Any]:
        """Return each metric as it came last, by its name."""
        with self._lock:
            return {
                metric.name: metric
                for resource in self._metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }

    def spans(self) -> list[Any]:
        """Return all spans."""
        with self._lock:
            return [span for one in self._traces for scope in one.scope_spans for span in scope.spans]

    def resource(self) -> dict[str, str]:
        """Return who has sent the newest of either."""
        with self._lock:
            newest = (self._traces or self._metrics)[-1]
        return attributes_of(newest.resource)


def attributes_of(one: Any) -> dict[str, Any]:
    """Return the attributes of a span, a point or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in one.attributes}


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Run one on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            self.send_response(receiver.take(self.path, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = OtlpReceiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
