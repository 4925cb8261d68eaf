"""An address that leads to another server now and then, as a name does: whoever is connected stays where he is."""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from engine.sandbox import ports


class Endpoint:
    """``port`` leads to where it is told to."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target

    @property
    def address(self) -> str:
        """Return where clients connect."""
        return f"{ports.HOST}:{self.port}"

    def lead_to(self, target: int) -> None:
        """Pass connections from now on on to this port."""
        self._target = target

    def target(self) -> int:
        """Return where the next connection leads to."""
        return self._target


@contextmanager
def endpoint(target: int) -> Iterator[Endpoint]:
    """Yield an address that leads to this port at first."""
    made = Endpoint(0, target)
    with leading_to(made.target) as made.port:
        yield made


@contextmanager
def leading_to(target: Callable[[], int]) -> Iterator[int]:
    """Yield a port whose connections are passed on to the port that is told for each."""

    class Carrier(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            near = self.request
            with suppress(OSError), socket.create_connection((ports.HOST, target())) as far:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with selectors.DefaultSelector() as selector:
                    selector.register(near, selectors.EVENT_READ, (near, far))
                    selector.register(far, selectors.EVENT_READ, (far, near))
                    while True:
                        for key, _ in selector.select():
                            source, other = key.data
                            data = source.recv(65_536)
                            if not data:
                                return
                            other.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Connections that break are what tests are about."""

    with Server((ports.HOST, 0), Carrier) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
