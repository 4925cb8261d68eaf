"""The sandbox's Valkey server: a real process, started, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.sandbox.errors import PortInUse, SandboxError
from engine.sandbox.valkey import ValkeyServer


def client_of(server: ValkeyServer, **options: str) -> redis.Redis:
    return redis.Redis(port=server.port, decode_responses=True, **options)  # type: ignore[arg-type]


def test_round_trip_and_quiet_defaults():
    """A server answers on its URL, with notifications off and nothing written to disk."""
    with ValkeyServer() as server:
        client = redis.Redis.from_url(server.url, decode_responses=True)
        client.hset("person1", mapping={"firstName": "John"})
        assert client.hgetall("person1") == {"firstName": "John"}
        settings = client.config_get("notify-keyspace-events", "save", "appendonly", "bind")
        assert settings == {"notify-keyspace-events": "", "save": "", "appendonly": "no", "bind": "127.0.0.1"}
        assert client.info("server")["process_id"] == server.pid


@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
def test_restart_on_the_same_port(end: str):
    """A server that was stopped, killed, or ended by itself comes back on the port that it had."""
    with ValkeyServer() as server:
        port, pid = server.port, server.pid
        client = client_of(server)
        client.set("k", "v")
        if end == "crash":
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        else:
            getattr(server, end)()
        assert not server.is_running()
        server.start()
        assert (server.port, server.is_running()) == (port, True)
        assert server.pid != pid
        assert client_of(server).get("k") is None


def test_data_folder_outlives_a_kill(tmp_path: Path):
    """With an append-only file that is always synced, a killed server has its data back."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    with ValkeyServer(config=config, data_dir=tmp_path) as server:
        client_of(server).set("k", "v")
        server.kill()
        server.start()
        assert client_of(server).get("k") == "v"
    assert any(tmp_path.iterdir())


def test_passwords_and_users():
    """Readiness does not depend on a password, and several users can be configured."""
    users = ["default off", "reader on >one ~* +@read", "writer on >two ~* &* +@all"]
    with ValkeyServer(config={"user": users}) as server:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)).ping()
        assert client_of(server, username="writer", password="two").set("k", "v")
        assert client_of(server, username="reader", password="one").get("k") == "v"


def test_port_in_use_is_one_clear_line():
    """A given port that somebody listens on is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse) as caught:
            ValkeyServer(port).start()
    assert f"port {port} is in use" in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_bad_setting_is_reported_in_the_servers_words():
    """A setting that the server refuses ends in an error that quotes the server, with no process left."""
    server = ValkeyServer(config={"no-such-setting": "1"})
    with pytest.raises(SandboxError, match="no-such-setting"):
        server.start()
    assert not server.is_running()
    server.close()


def test_missing_binary(tmp_path: Path):
    """A binary that is not there ends in a clear error."""
    server = ValkeyServer(binary=tmp_path / "valkey-server")
    with pytest.raises(SandboxError, match="does not run"):
        server.start()
    server.close()


def test_password_is_not_in_the_list_of_processes():
    """The server's command line names a file that only we can read, and no password."""
    with ValkeyServer(config={"requirepass": "hunter22"}) as server:
        command = Path(f"/proc/{server.pid}/cmdline")
        if not command.exists():
            pytest.skip("needs /proc")
        assert b"hunter22" not in command.read_bytes()
        assert client_of(server, password="hunter22").ping()
