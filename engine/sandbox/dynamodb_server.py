"""The DynamoDB process: moto's server on an inherited socket (``python -m engine.sandbox.dynamodb_server``)."""

from __future__ import annotations

import io
import logging
import os
import signal
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from engine.sandbox import lifeline, partiql, ports
from engine.sandbox.admission import Admission, has_gone

THROTTLED = (
    b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException",'
    b'"message":"Rate of requests exceeds the allowed throughput."}'
)
_admission = Admission()


class KeepAliveHandler(MotoRequestHandler):
    """Leaves connections open, as DynamoDB does: werkzeug closes each, 10 ms after its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Read the request whole, so that what follows on the connection is the next one; answer it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            super().run_wsgi()
            return
        environ = self.make_environ()
        environ["wsgi.input"] = io.BytesIO(self.rfile.read(int(length)))
        with _admission.enter() as is_in:
            if has_gone(self.connection):
                self.close_connection = True
            elif is_in:
                self._answer(environ)
            else:
                self._refuse()

    def _answer(self, environ: Any) -> None:
        told: list[Any] = []
        parts: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            told[:] = [status, headers]
            return parts.append

        parts.extend(self.server.app(environ, start_response))
        code, _, message = told[0].partition(" ")
        self._send(int(code), message, told[1], b"".join(parts))

    def _refuse(self) -> None:
        self._send(400, "Bad Request", [("Content-Type", "application/x-amz-json-1.0")], THROTTLED)

    def _send(self, code: int, message: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(code, message)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Answer requests until terminated, or until the parent is gone."""
    told = lifeline.read_instructions()
    lifeline.watch_lifeline(lifeline.exit_at_once)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    partiql.install()
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(ports.HOST, 0, application, threaded=True, request_handler=KeepAliveHandler, fd=told["socket"])
    lifeline.announce_ready()
    server.serve_forever()


if __name__ == "__main__":
    main()
