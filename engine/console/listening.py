"""The console's listening socket, and its TLS."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

from engine.config import ConsoleSettings
from engine.console.address import Address
from engine.errors import EngineError
from engine.observe.logs import get_logger

log = get_logger(__name__)

BACKLOG = 64


def listen(address: Address) -> socket.socket:
    """Return a socket that listens; raise EngineError, in one line, where that is not possible."""
    try:
        return _listen_at_path(address.path) if address.path else _listen_on_port(address)
    except OSError as error:
        hint = "set console.listen to another address, or stop what listens there"
        raise EngineError(f"the console cannot listen on {address}: {error.strerror or error}", hint=hint) from error


def _listen_on_port(address: Address) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)


def _listen_at_path(path: str) -> socket.socket:
    """Listen for this user alone, in place of a socket that an engine before left behind."""
    _remove_left(Path(path))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_left(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        # To bind says that the address is in use, which it is.
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)


def tls(settings: ConsoleSettings) -> ssl.SSLContext | None:
    """Return the context of the settings' certificate, None for none; raise EngineError if it is of no use."""
    if not settings.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EngineError(
            f"the console's certificate cannot be used: {reason}",
            hint="see console.tls_cert_file and console.tls_key_file: PEM, and of one pair",
        ) from error
    return context


class Renewal:
    """Has a context serve a renewed certificate; one that cannot be used is reported, and the old one stays."""

    def __init__(self, settings: ConsoleSettings, context: ssl.SSLContext) -> None:
        self._settings, self._context = settings, context
        self._known = self._stamps()
        self._said = ""

    def _stamps(self) -> tuple[int, ...]:
        """Return when the files were changed; nothing while one is missing."""
        files = (self._settings.tls_cert_file, self._settings.tls_key_file)
        try:
            return tuple(Path(file).stat().st_mtime_ns for file in files)
        except OSError:
            return ()

    def look(self) -> None:
        """Take the certificate over where its files have changed."""
        found = self._stamps()
        if not found or found == self._known:
            return
        try:
            # A context that is in use would be left with half of a pair that does not match.
            tls(self._settings)
            self._context.load_cert_chain(self._settings.tls_cert_file, self._settings.tls_key_file)
        except (EngineError, OSError) as error:
            if str(error) != self._said:
                self._said = str(error)
                log.error("certificate_not_renewed", error=self._said)
            return
        self._known, self._said = found, ""
        log.info("certificate_renewed", file=self._settings.tls_cert_file)
