"""A connection that a loop polls, and the one request that is on it; it never blocks."""

from __future__ import annotations

import select
import socket
import ssl

from engine.aws.http.answer import Answer, BadAnswer

FIRST_READ_BYTES, READ_BYTES = 8_192, 65_536
"""Most answers are small, and a large buffer costs more than to read them."""


class Broken(Exception):
    """The connection ended, or sent something invalid, before a complete answer: the request's outcome is unknown."""


class Connection:
    """One connection; `begin`, then `advance` whenever it is ready for `wants`, until that returns an answer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._unsent = memoryview(b"")
        self._answer: Answer | None = None
        self.wants = select.POLLIN
        """What a poller should wait for."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def is_stale(self) -> bool:
        """Tell whether the other side closed an idle connection: nothing but its end can arrive on it."""
        if not self._poller.poll(0):
            return False
        # TLS may have sent something else.
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True
        return True

    def begin(self, request: bytes, body_bytes_max: int) -> None:
        """Send a request, header and body, as far as possible at once; raise `Broken` if the connection ended."""
        assert self._answer is None
        self._answer = Answer(body_bytes_max)
        self._unsent = memoryview(request)
        self._send()

    def advance(self) -> Answer | None:
        """Send on and read on; return the answer once it is whole. Raises `Broken`."""
        if self._unsent:
            self._send()
        answer = self._receive()
        if answer is not None:
            if self._unsent:
                # It answered before it had read the whole request: the rest must not be sent.
                answer.keeps_open = False
            self._answer, self._unsent = None, memoryview(b"")
        return answer

    def _send(self) -> None:
        wants = select.POLLIN
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            wants = select.POLLIN | select.POLLOUT
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            # The answer that explains it may be here: a server that refuses a body answers, and closes.
            self._unsent = memoryview(b"")
            if not self._has_something(error):
                raise Broken(f"the connection broke while the request was sent: {error}") from error
        self.wants = wants

    def _has_something(self, error: OSError) -> bool:
        return bool(self._poller.poll(0)) and not isinstance(error, ssl.SSLError)

    def _receive(self) -> Answer | None:
        answer = self._answer
        assert answer is not None
        size = FIRST_READ_BYTES
        while True:
            try:
                data = self._socket.recv(size)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            except ssl.SSLWantWriteError:
                self.wants |= select.POLLOUT
                return None
            except OSError as error:
                raise Broken(f"the connection broke: {error}") from error
            if not data:
                raise Broken(_end(answer))
            try:
                answer.feed(data)
            except BadAnswer as error:
                raise Broken(str(error)) from error
            if answer.is_over or answer.is_too_long:
                return answer
            size = READ_BYTES

    def half_answer(self) -> Answer | None:
        """Return the part of an answer that arrived before its connection broke, if its header states its length."""
        answer = self._answer
        return answer if answer is not None and "content-length" in answer.headers and answer.status else None

    def close(self) -> None:
        """Close it; never fails."""
        self._socket.close()


def _end(answer: Answer) -> str:
    if not answer.is_begun:
        return "the other side closed the connection without an answer"
    return f"the answer was cut off after {len(answer.body)} bytes of its body"
