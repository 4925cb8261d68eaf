"""The DynamoDB process: moto's server on an inherited socket (``python -m engine.sandbox.dynamodb_server``)."""

from __future__ import annotations

import logging
import os
import signal

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from engine.sandbox import lifeline, ports


def main() -> None:
    """Answer requests until terminated, or until the parent is gone."""
    told = lifeline.read_instructions()
    lifeline.watch_lifeline(lifeline.exit_at_once)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        ports.HOST, 0, application, threaded=True, request_handler=MotoRequestHandler, fd=told["socket"]
    )
    lifeline.announce_ready()
    server.serve_forever()


if __name__ == "__main__":
    main()
