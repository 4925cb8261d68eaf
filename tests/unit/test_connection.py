from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hiredis
import pytest

from engine.config import RedisSettings
from engine.errors import RedisError, RedisRefused, RedisUnreachable
from engine.redis.address import Address, parse_url
from engine.redis.connection import NOTHING, RespConnection, pack
from engine.sandbox.valkey import ValkeyServer
from tests.tls_proxy import Certificates, make_certificates, tls_in_front_of

SECRET = "correct-horse"
ACL = [
    f"user default on >{SECRET} ~* &* +@all",
    f"user engine on >{SECRET}2 ~* &* +@all -config",
    "user nobody on nopass ~* &* -@all +hello +auth",
]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[ValkeyServer]:
    with ValkeyServer(config={"user": [line.removeprefix("user ") for line in ACL]}) as running:
        yield running


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def opened(url: str, **settings: object) -> RespConnection:
    options = {"connect_timeout_ms": 2_000, "read_timeout_ms": 2_000, **settings}
    return RespConnection.open(RedisSettings(url=url, **options), name="test")  # type: ignore[arg-type]


def failure(url: str, **settings: object) -> RedisError:
    with pytest.raises(RedisError) as caught:
        opened(url, **settings)
    assert SECRET not in f"{caught.value} {caught.value!r}"
    return caught.value


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port, and have each connection answered by this function."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host:7000/3", Address("host", 7000, 3, tls=False)),
        ("redis://host?db=2", Address("host", 6379, 2, tls=False)),
        ("rediss://[::1]", Address("::1", 6379, 0, tls=True)),
        ("unix:///run/a%20b.sock?db=4", Address("", 0, 4, tls=False, unix_path="/run/a b.sock")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    """A URL's host, port, database, TLS and socket path are read as other clients read them."""
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["http://host", "redis://host/x", "redis://host/-1", "redis://host:x"])
def test_bad_urls(url: str) -> None:
    """What is no address of a Redis server is refused."""
    with pytest.raises(ValueError, match=r".+"):
        parse_url(url)


@pytest.mark.parametrize("protocol", [2, 3])
def test_greeting(server: ValkeyServer, protocol: int) -> None:
    """A connection has its name and its database, and knows what the server is, in both protocols."""
    redis = RedisSettings(url=f"redis://127.0.0.1:{server.port}/5")
    connection = RespConnection.open(redis, name="engine-x", protocol=protocol)
    assert connection.call("CLIENT", "GETNAME") == b"engine-x"
    assert b" db=5 " in connection.call("CLIENT", "INFO")
    assert connection.facts["mode"] == "standalone"
    assert connection.facts["role"] == "master"
    connection.close()


def test_a_unix_socket(server: ValkeyServer) -> None:
    """A server is reached by its socket file too."""
    assert server._folder is not None
    connection = opened(f"unix://{server._folder.name}/socket?db=1")
    assert connection.call("PING") == b"PONG"
    connection.close()


def test_bytes_are_lossless_as_text(server: ValkeyServer) -> None:
    """With an encoding, what is not UTF-8 becomes surrogates that encode to the same bytes."""
    connection = RespConnection.open(RedisSettings(url=server.url), name="t", encoding="utf-8")
    raw = bytes(range(256)) + "ü".encode()
    assert connection.call("ECHO", raw).encode("utf-8", "surrogateescape") == raw
    connection.close()


def test_a_pipeline_larger_than_all_buffers(server: ValkeyServer) -> None:
    """Commands and replies of many megabytes pass each other, and errors are values in their place."""
    connection = opened(server.url)
    commands = pack("ECHO", b"x" * 1_000_000) * 30 + pack("NONSENSE") + pack("ECHO", b"end")
    replies = connection.pipeline(commands, 32)
    assert {len(reply) for reply in replies[:30]} == {1_000_000}
    assert isinstance(replies[30], hiredis.ReplyError)
    assert replies[31] == b"end"
    connection.close()


def test_receive_available_does_not_wait(server: ValkeyServer) -> None:
    """Without bytes it says so at once; what came is parsed, in as many reads as the buffer takes."""
    connection = RespConnection.open(RedisSettings(url=server.url), name="t", read_bytes=4_096)
    assert not connection.receive_available()
    assert connection.reply() is NOTHING
    connection.send(pack("ECHO", b"y" * 10_000))
    reply = poll_reply(connection)
    assert reply == b"y" * 10_000
    connection.close()


def poll_reply(connection: RespConnection) -> object:
    deadline = time.monotonic() + 10
    while (reply := connection.reply()) is NOTHING:
        assert time.monotonic() < deadline
        if not connection.receive_available():
            time.sleep(0.002)
    return reply


def test_password_and_user(locked: ValkeyServer) -> None:
    """The password alone is the default user's; with a name it is that user's."""
    for settings, user in (
        ({"password": SECRET}, b"default"),
        ({"username": "engine", "password": f"{SECRET}2"}, b"engine"),
    ):
        connection = opened(locked.url, **settings)
        assert connection.call("ACL", "WHOAMI") == user
        connection.close()


@pytest.mark.parametrize(
    ("settings", "words", "hint"),
    [
        ({}, "NOAUTH", "password"),
        ({"password": f"{SECRET}-wrong"}, "WRONGPASS", "redis.password"),
        ({"username": "ghost", "password": SECRET}, "WRONGPASS", "redis.username"),
    ],
)
def test_refused_credentials(locked: ValkeyServer, settings: dict[str, str], words: str, hint: str) -> None:
    """A wrong or missing password is a refusal, with the setting to look at, and without the secret."""
    error = failure(locked.url, **settings)
    assert isinstance(error, RedisRefused)
    assert words in error.message
    assert hint in error.hint


def test_a_missing_right_names_its_grant(locked: ValkeyServer) -> None:
    """A command that the user may not run is named as ACL SETUSER wants it."""
    error = failure(f"redis://127.0.0.1:{locked.port}/1", username="nobody", password="any")
    assert isinstance(error, RedisRefused)
    assert "+select" in error.hint


def test_a_password_that_the_server_has_not(server: ValkeyServer) -> None:
    """A password for a server without one is said to be too many."""
    assert "remove" in failure(server.url, password=SECRET).hint


def test_a_database_that_is_not_there(server: ValkeyServer) -> None:
    """A database number that the server does not have is a refusal that names the setting."""
    assert "redis.url" in failure(f"redis://127.0.0.1:{server.port}/9999").hint


def test_nobody_listens() -> None:
    """A refused connection names host, port and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(f"redis://127.0.0.1:{port}")
    assert isinstance(error, RedisUnreachable)
    assert f"127.0.0.1:{port}" in error.message
    assert "running" in error.hint


def test_no_such_host() -> None:
    """A name that does not resolve is unreachable, not a crash."""
    assert isinstance(failure("redis://no-such-host.invalid"), RedisUnreachable)
    assert isinstance(failure(f"redis://{'x' * 80}.invalid"), RedisUnreachable)


def test_a_silent_server() -> None:
    """A server that accepts and says nothing is given up after the read timeout, whose setting is named."""
    with answering(lambda connection: connection.recv(1) and connection.recv(100_000) and time.sleep(1)) as port:
        error = failure(f"redis://127.0.0.1:{port}", read_timeout_ms=100)
    assert isinstance(error, RedisUnreachable)
    assert "read_timeout_ms" in error.hint


def test_what_is_no_redis() -> None:
    """Another protocol's answer is named as such."""
    with answering(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        error = failure(f"redis://127.0.0.1:{port}")
    assert "does not speak the Redis protocol" in error.message


def test_loading_passes() -> None:
    """A server that is loading is unreachable for now, which is tried again, and not a refusal."""
    loading = b"-LOADING Redis is loading the dataset in memory\r\n"
    with answering(lambda connection: connection.recv(100) and connection.sendall(loading)) as port:  # type: ignore[func-returns-value]
        error = failure(f"redis://127.0.0.1:{port}")
    assert isinstance(error, RedisUnreachable)


def test_an_old_server() -> None:
    """A server without HELLO serves those who want RESP2; those who want RESP3 learn that it is too old."""

    def old(connection: socket.socket) -> None:
        reader = hiredis.Reader()
        while data := connection.recv(4_096):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                known = command[0] != b"HELLO"
                connection.sendall(b"+OK\r\n" if known else b"-ERR unknown command `HELLO`\r\n")

    with answering(old) as port:
        redis = RedisSettings(url=f"redis://127.0.0.1:{port}")
        RespConnection.open(redis, name="t", protocol=2).close()
        assert "too old" in failure(redis.url).hint


def test_the_server_goes_away(server: ValkeyServer) -> None:
    """A connection that is closed under us is unreachable, whether we wait or only look."""
    killer = opened(server.url)
    for look in (RespConnection.receive, lambda connection: [connection.receive_available() for _ in range(10_000)]):
        victim = opened(server.url)
        killer.call("CLIENT", "KILL", "ID", victim.call("CLIENT", "ID"))
        with pytest.raises(RedisUnreachable, match="closed"):
            look(victim)  # type: ignore[operator]
        victim.close()
    killer.close()


def test_tls(server: ValkeyServer, certificates: Certificates) -> None:
    """TLS works with the authority's file, carries megabytes, and leaves no byte unseen inside it."""
    with tls_in_front_of(server.port, certificates) as port:
        connection = opened(f"rediss://127.0.0.1:{port}", tls_ca_file=str(certificates.authority))
        replies = connection.pipeline(pack("ECHO", b"z" * 300_000) * 20, 20)
        assert {len(reply) for reply in replies} == {300_000}
        connection.send(pack("ECHO", b"w" * 3_000_000))
        assert poll_reply(connection) == b"w" * 3_000_000
        assert not connection.receive_available()
        connection.close()


def test_tls_without_verification(server: ValkeyServer, certificates: Certificates) -> None:
    """Verification can be turned off."""
    with tls_in_front_of(server.port, certificates) as port:
        connection = opened(f"rediss://127.0.0.1:{port}", tls_verify=False)
        assert connection.call("PING") == b"PONG"
        connection.close()


def test_tls_with_a_certificate_of_the_client(server: ValkeyServer, certificates: Certificates) -> None:
    """A server that wants a certificate gets the configured one; without one the error names the setting."""
    with tls_in_front_of(server.port, certificates, wants_certificate=True) as port:
        url, ca_file = f"rediss://127.0.0.1:{port}", str(certificates.authority)
        files = {"tls_cert_file": str(certificates.certificate), "tls_key_file": str(certificates.key)}
        connection = opened(url, tls_ca_file=ca_file, **files)
        assert connection.call("PING") == b"PONG"
        connection.close()
        assert "redis.tls_cert_file" in str(failure(url, tls_ca_file=ca_file))


def test_tls_with_another_name(server: ValkeyServer, certificates: Certificates) -> None:
    """A server that is reached by a name which its certificate has not is checked for the name in the settings."""
    with tls_in_front_of(server.port, certificates) as port:
        url, ca_file = f"rediss://localhost:{port}", str(certificates.authority)
        assert "certificate of localhost" in str(failure(url, tls_ca_file=ca_file))
        opened(url, tls_ca_file=ca_file, tls_server_name="cache.test").close()


def test_renewed_certificates(server: ValkeyServer, certificates: Certificates, tmp_path: Path) -> None:
    """Files of certificates that are renewed count from the next connection on."""
    with tls_in_front_of(server.port, certificates, wants_certificate=True) as port:
        old = make_certificates(tmp_path)
        files = {"tls_cert_file": str(old.certificate), "tls_key_file": str(old.key)}
        settings = {"tls_ca_file": str(old.authority), **files}
        assert "is not accepted" in str(failure(f"rediss://127.0.0.1:{port}", **settings))
        for mine, renewed in ((old.authority, certificates.authority), (old.key, certificates.key)):
            mine.write_bytes(renewed.read_bytes())
        old.certificate.write_bytes(certificates.certificate.read_bytes())
        opened(f"rediss://127.0.0.1:{port}", **settings).close()


def test_an_unknown_authority(server: ValkeyServer, certificates: Certificates) -> None:
    """A certificate that nobody we trust has signed is refused, and the setting named."""
    with tls_in_front_of(server.port, certificates) as port:
        error = failure(f"rediss://127.0.0.1:{port}")
    assert isinstance(error, RedisRefused)
    assert "redis.tls_ca_file" in error.hint


def test_tls_on_one_side_only(server: ValkeyServer, certificates: Certificates) -> None:
    """TLS to a plain port, and plain to a TLS port, each say which scheme to try."""
    error = failure(f"rediss://127.0.0.1:{server.port}", connect_timeout_ms=300, tls_verify=False)
    assert "redis://" in error.hint
    with tls_in_front_of(server.port, certificates) as port:
        assert "rediss://" in failure(f"redis://127.0.0.1:{port}").hint


def test_files_that_cannot_be_read(tmp_path: Path, certificates: Certificates) -> None:
    """A missing or broken certificate file is named with its setting."""
    error = failure("rediss://127.0.0.1:1", tls_ca_file=str(tmp_path / "none.pem"))
    assert "redis.tls_ca_file" in error.message
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    files = {"tls_ca_file": str(certificates.authority), "tls_cert_file": str(broken)}
    assert "redis.tls_cert_file" in failure("rediss://127.0.0.1:1", **files).message
