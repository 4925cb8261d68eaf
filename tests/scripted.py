"""A server that says what a test has it say, for what no server here can be brought to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import hiredis


class Scripted:
    """A server that answers every command by name, for what no server here can do; keeps what it was asked."""

    def __init__(self, answers: dict[bytes, list[bytes]]) -> None:
        self.answers = {b"HELLO": [b"%0\r\n"], b"CLIENT": [b"+OK\r\n"], b"TIME": [time_reply(1)], **answers}
        self.asked: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        while data := connection.recv(1 << 16):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                self.asked.append(command)
                answers = self.answers[command[0]]
                connection.sendall(answers.pop(0) if len(answers) > 1 else answers[0])

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def time_reply(seconds: int) -> bytes:
    text = b"%d" % seconds
    return b"*2\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(text), text)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)
