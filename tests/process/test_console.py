"""The console as it is asked: over sockets, TLS, with and without a token, by those who mean it ill."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector

from engine.sandbox.ports import free_port, listen
from tests.console_rig import ConsoleUnderTest, answering_console, console, status_of
from tests.support import wait_for
from tests.tls_proxy import make_certificates

TOKEN = "0123456789abcdef"
PATHS = ("/", "/metrics", "/status", "/events", "/console.js", "/nothing")


def test_pages(tmp_path: Path) -> None:
    """Everything that there is is answered, with headers that let no other site use it; nothing can be changed."""
    with answering_console(tmp_path) as running:
        for path in ("/", "/console.css", "/console.js", "/chart.js", "/icon.svg", "/status", "/metrics"):
            answer = running.get(path)
            assert (path, answer.status) == (path, 200)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.headers["Cache-Control"] == "no-store"
        assert running.get("/nothing").status == 404
        assert running.get("/..%2fserver.py").status == 404
        assert running.get("/metrics", method="POST").status == 405
        assert running.get("/metrics", {"Host": "evil.example"}).status == 403


def test_health_follows_the_status(tmp_path: Path) -> None:
    """Healthy means that an engine writes its status, ready that all of its feeds are proved."""
    with answering_console(tmp_path) as running:
        status = status_of(os.getpid())
        assert (running.get("/healthz").status, running.get("/readyz").status) == (200, 200)
        running.write(status | {"totals": status["totals"] | {"feeds_proved": 1}})
        wait_for(lambda: running.get("/readyz").status == 503, "a feed that is not proved")
        assert running.get("/healthz").status == 200
        running.write(status | {"pid": 2**22 + 1})
        wait_for(lambda: running.get("/healthz").status == 503, "an engine that is gone")
        assert "ingest_engine_up 0.0" in running.get("/metrics").body


def test_without_the_token_there_is_nothing(tmp_path: Path) -> None:
    """All paths answer alike without the token, those that are not there too; probes alone are answered."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with answering_console(tmp_path, 'token_file = "token"') as running:
        for header in ({}, {"Authorization": "Bearer 0123456789abcdeF"}):
            answers = [running.get(path, header) for path in PATHS]
            assert {(answer.status, answer.body, answer.headers.get("Content-Type")) for answer in answers} == {
                (401, "", None)
            }
        assert running.get("/readyz").status == 200
        assert running.get("/metrics", {"Authorization": f"Bearer {TOKEN}"}).status == 200
        # One that is changed counts at once.
        (tmp_path / "token").write_text("fedcba9876543210")
        wait_for(lambda: running.get("/metrics", {"Authorization": "Bearer fedcba9876543210"}).status == 200, "the new")
        assert running.get("/metrics", {"Authorization": f"Bearer {TOKEN}"}).status == 401
        assert TOKEN not in running.errors.read_text()


def test_tls(tmp_path: Path) -> None:
    """With a certificate it speaks TLS alone, 1.2 or later."""
    made = make_certificates(tmp_path)
    with console(tmp_path, f'tls_cert_file = "{made.certificate}"\ntls_key_file = "{made.key}"') as running:
        running.context = ssl.create_default_context(cafile=str(made.authority))
        wait_for(running.is_there, "the console answers")
        assert running.get("/readyz").status == 200
        running.url = running.url.replace("https:", "http:")
        assert not running.is_there()


def test_a_certificate_is_renewed_while_it_runs(tmp_path: Path) -> None:
    """Changed files are served without a restart; while they are no pair, one line says so and the old ones stay."""
    new = tmp_path / "new"
    new.mkdir()
    made, renewed = make_certificates(tmp_path), make_certificates(new)
    with console(tmp_path, f'tls_cert_file = "{made.certificate}"\ntls_key_file = "{made.key}"') as running:
        running.context = ssl.create_default_context(cafile=str(made.authority))
        wait_for(running.is_there, "the console answers")
        made.certificate.write_bytes(renewed.certificate.read_bytes())
        wait_for(lambda: "certificate_not_renewed" in running.errors.read_text(), "what is wrong is said")
        assert running.get("/readyz").status == 200
        made.key.write_bytes(renewed.key.read_bytes())
        wait_for(lambda: "certificate_renewed" in running.errors.read_text(), "the pair is taken over")
        running.context = ssl.create_default_context(cafile=str(renewed.authority))
        assert running.get("/readyz").status == 200
        assert running.errors.read_text().count("certificate_not_renewed") == 1


def test_a_unix_socket_is_the_user_s_alone(tmp_path: Path) -> None:
    """The socket is nobody else's, and one that an engine before left behind is replaced."""
    path = tmp_path / "console.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with console(tmp_path, listen=f"unix:{path}") as running:

        async def ask() -> int:
            async with (
                ClientSession(connector=UnixConnector(str(path))) as session,
                session.get("http://engine/readyz") as answer,
            ):
                return answer.status

        wait_for(lambda: path.exists() and "console " in running.errors.read_text(), "it listens")
        assert asyncio.run(ask()) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """While another program has the port one line says so, with the remedy; once it is free the console has it."""
    port = free_port("the test")
    taken = listen(port, "the test")
    with console(tmp_path, listen=f"127.0.0.1:{port}") as running:
        wait_for(lambda: running.errors.read_text(), "what is wrong is said")
        (line,) = running.errors.read_text().splitlines()
        assert f"cannot listen on 127.0.0.1:{port}" in line
        assert "console.listen" in line
        assert "Traceback" not in line
        taken.close()
        wait_for(running.is_there, "the console answers")
        assert running.get("/readyz").status == 200


@pytest.mark.parametrize("fault", ["no certificate", "no folder"])
def test_what_cannot_be_used_is_one_line(fault: str, tmp_path: Path) -> None:
    """A certificate that is none, a socket in no folder: one line each, and no traceback."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("none")
    files = 'tls_cert_file = "cert.pem"\ntls_key_file = "key.pem"' if fault == "no certificate" else ""
    where = f"unix:{tmp_path}/nowhere/sock" if fault == "no folder" else ""
    with console(tmp_path, files, listen=where) as running:
        wait_for(lambda: running.errors.read_text(), "what is wrong is said")
        (line,) = running.errors.read_text().splitlines()
        assert "console_unavailable" in line


def open_socket(running: ConsoleUnderTest) -> socket.socket:
    host, _, port = running.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def ends(sock: socket.socket) -> bool:
    """Tell whether the other side ends the connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_asks_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    """Connections that ask nothing, or drip their question, are closed in time, and others are answered again."""
    with answering_console(tmp_path, "connections_max = 4\nrequest_timeout_s = 1.0") as running:
        idle = [open_socket(running) for _ in range(3)]
        dripping = open_socket(running)
        dripping.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        one_too_many = open_socket(running)
        assert ends(one_too_many)
        assert all(ends(sock) for sock in (*idle, dripping))
        wait_for(running.is_there, "others are answered")
        for sock in (*idle, dripping, one_too_many):
            sock.close()


def test_garbage_is_refused(tmp_path: Path) -> None:
    """What is no HTTP, too long a line, or too long a header, is refused without a line in the log."""
    with answering_console(tmp_path) as running:
        before = running.errors.read_text()
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        ):
            with open_socket(running) as sock:
                sock.sendall(sent)
                answer = sock.recv(65_536)
                assert not answer or answer.split(b" ")[1] == b"400", answer[:100]
        assert running.get("/readyz").status == 200
        assert running.errors.read_text() == before


def test_events_tell_what_is_new(tmp_path: Path) -> None:
    """A page that listens is told the state each second, and a route's name cannot break out of its event."""
    with answering_console(tmp_path) as running:
        status = status_of(os.getpid())
        status["routes"][0]["name"] = "a\n\ndata: {}\n\n"
        running.write(status)
        time.sleep(0.6)
        with open_socket(running) as sock:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            received = b""
            while received.count(b'"running":true') < 2:
                received += sock.recv(65_536)
        assert b"text/event-stream" in received
        assert b"\ndata: {}\n" not in received


def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    """When the other end of its lifeline is closed it ends by itself, also with a page open."""
    with answering_console(tmp_path) as running, open_socket(running) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert sock.recv(10)
        assert running.process.stdin is not None
        running.process.stdin.close()
        assert running.process.wait(20) == 0
