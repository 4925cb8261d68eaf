"""What a user's missing rights hide is told before the start, by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.capture.watch.keepsake import KEY
from engine.capture.watch.rights import unseen
from engine.config import RedisSettings
from engine.redis.connection import RespConnection
from engine.sandbox.valkey import ValkeyServer
from tests.servers import every_server
from tests.support import ROUTE, wait_for, whole_path

ALL = "on >secret ~* &* +@all"


def warnings_for(server: ValkeyServer) -> list[str]:
    settings = RedisSettings(url=server.url, username="engine", password="secret")
    connection = RespConnection.open(settings, name="test")
    try:
        return unseen(connection, settings.username)
    finally:
        connection.close()


@every_server
def test_a_user_without_info_is_warned(server_binary: Path) -> None:
    """The right is named with what its lack costs; where no key can be kept either, flushes go unnoticed."""
    users = [f"engine {ALL} -info", f"default {ALL} nopass"]
    with ValkeyServer(binary=server_binary, config={"user": users}) as server:
        (warning,) = warnings_for(server)
        assert "ACL SETUSER engine +info" in warning
        assert f"shows by the key {KEY.decode()}" in warning
    with ValkeyServer(binary=server_binary, config={"user": [f"engine {ALL} -info -set"]}) as server:
        (warning,) = warnings_for(server)
        assert "goes unnoticed, because the engine may not keep" in warning


@every_server
def test_a_server_that_tells_all_is_no_warning(server_binary: Path) -> None:
    """With all rights nothing is warned of, but that Redis 6 does not count subcommands."""
    with ValkeyServer(binary=server_binary, config={"user": [f"engine {ALL}"]}) as server:
        version = RespConnection.open(RedisSettings(url=server.url), name="test").facts["version"]
        warnings = warnings_for(server)
        assert [("Redis 6" in warning) for warning in warnings] == ([True] if version.startswith("6.") else [])


def test_a_replica_whose_clients_may_not_be_listed() -> None:
    """On a replica the list of clients shows a full synchronization: its lack is told there, and only there."""
    user = {"user": [f"engine {ALL} -client|list"]}
    with ValkeyServer(config=user) as primary:
        assert warnings_for(primary) == []
        with ValkeyServer(config={**user, "replicaof": f"127.0.0.1 {primary.port}"}) as replica:
            (warning,) = wait_for(lambda: warnings_for(replica), "the warning")
            assert "+client|list" in warning


def test_the_commands_tell(tmp_path: Path) -> None:
    """`engine check` and `engine start` both say which right is missing, also where flags are still to be set."""
    with whole_path(tmp_path, server_config={"user": [f"engine {ALL} -info"]}) as path:
        path.environment |= {"ENGINE_REDIS_USERNAME": "engine", "ENGINE_REDIS_PASSWORD": "secret"}
        path.write_config(ROUTE)
        command = [sys.executable, "-m", "engine", "check", "--config", str(path.config)]
        check = subprocess.run(command, env=path.environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "ACL SETUSER engine +info" in " ".join(check.stdout.split())
        assert "the engine adds missing flags at start" in check.stdout
        assert check.returncode == 0
        path.start()
        assert "ACL SETUSER engine +info" in path.log()
