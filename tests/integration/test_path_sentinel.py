"""The whole path on a primary that Sentinels watch, and with secrets that rotate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.cluster import Watched, sentinels, wait_until
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with sentinels(replicas=2) as made:
        yield made


def configure(path: PathUnderTest, url: str, more: str = "") -> None:
    """Have the engine capture from there, and not from the server that every path has."""
    path.write_config(ROUTE)
    text = path.config.read_text().replace(f'url = "{path.server.url}"', f'url = "{url}"\n{more}', 1)
    path.config.write_text(text)


def write(client: Any, prefix: str, number: int) -> None:
    """Write, as a client does that takes its time over a failover."""
    wait_until(lambda: client.hset(f"{prefix}:{number}", "n", number) >= 0, "a write is taken")


def values(client: Any, prefix: str) -> dict[bytes, Any]:
    """Return what the primary holds."""
    return {
        key: {name.decode(): value.decode() for name, value in client.hgetall(key).items()}
        for key in client.scan_iter(f"{prefix}:*", count=1_000)
    }


def is_whole(path: PathUnderTest, client: Any, prefix: str) -> bool:
    """Tell whether the destination holds what the primary holds; a failover may lose writes."""
    held, last = values(client, prefix), path.last()
    return bool(held) and all(last.get(key) == value for key, value in held.items())


@pytest.mark.parametrize("how", ["SENTINEL FAILOVER", "kill", "stop"])
def test_failover(tmp_path: Path, watched: Watched, how: Literal["SENTINEL FAILOVER", "kill", "stop"]) -> None:
    """Whom the Sentinels make the primary is captured and read within seconds, and nothing is lost or stale."""
    watched.wait_until_ok()
    before, client, prefix = watched.primary(), watched.client(), how.split()[0]
    with whole_path(tmp_path) as path:
        configure(path, watched.url)
        path.start()
        for number in range(200):
            write(client, prefix, number % 50)
            if number == 100:
                watched.failover(how)
        after = watched.primary()
        assert after is not before
        wait_for(lambda: is_whole(path, client, prefix), "everything at the destination")
        client.hset(f"{prefix}:last", "n", "last")
        wait_for(lambda: path.last().get(f"{prefix}:last".encode()) == {"n": "last"}, "a change at the new primary")
        assert path.stop() == 0
        if before.is_stopped:
            before.cont()
        elif not before.is_alive:
            watched.restart(before)
    watched.wait_until_ok()


def test_writes_at_the_old_primary(tmp_path: Path, watched: Watched) -> None:
    """The old primary takes writes until it is demoted; by then the engine has long left it, for listening and reading.

    What it was sent before that, and was delivered, is put right by what the new primary holds. Here nobody demotes it.
    """
    watched.wait_until_ok()
    before, client = watched.primary(), watched.client()
    with whole_path(tmp_path) as path:
        configure(path, watched.url)
        never = "[capture]\ntopology_interval_ms = 3_600_000\n"
        path.config.write_text(path.config.read_text().replace("[capture]\n", never))
        path.start()
        for number in range(20):
            write(client, "old", number)
        wait_for(lambda: is_whole(path, client, "old"), "everything at the destination")
        before.call("ACL", "SETUSER", "default", "-replicaof", "-slaveof")
        after = watched.failover("SENTINEL FAILOVER")
        before.client.hset("old:3", "n", "too late")
        wait_for(lambda: "topology_in_force" in path.log(), "the engine follows")
        before.client.hset("old:4", "n", "unheard")
        before.client.hset("old:5", "n", "unread")
        after.client.hset("old:5", "n", "read")
        wait_for(lambda: path.last()[b"old:5"] == {"n": "read"}, "a change at the new primary")
        wait_for(lambda: is_whole(path, after.client, "old"), "what the new primary holds")
        assert not any("un" in str(record["body"]) for record in path.records())
        assert path.stop() == 0
    before.call("ACL", "SETUSER", "default", "+replicaof", "+slaveof")
    watched.wait_until_ok()


def test_sentinels_behind_tls(tmp_path: Path) -> None:
    """Sentinels and servers that speak TLS alone, and want a certificate of ours, are asked, captured and followed."""
    with sentinels("redis-7.0", replicas=1, tls=True) as made, whole_path(tmp_path) as path:
        options = made.options
        files = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
        configure(path, made.url, "".join(f'tls_{name}_file = "{options[key]}"\n' for name, key in files.items()))
        path.start()
        client = made.client()
        for number in range(20):
            write(client, "tls", number)
        wait_for(lambda: is_whole(path, client, "tls"), "everything at the destination")
        after = made.failover("SENTINEL FAILOVER")
        write(after.client, "tls", 99)
        wait_for(lambda: path.last().get(b"tls:99") == {"n": "99"}, "a change at the new primary")
        assert path.stop() == 0


def test_password_rotates(tmp_path: Path) -> None:
    """A password that changes while the engine runs takes no restart, and no change is lost: its file is read anew."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    user = "engine on >hunter2 ~* &* +@all"
    with whole_path(tmp_path, server_config={"user": [user]}) as path:
        configure(path, path.server.url, f'username = "engine"\npassword_file = "{secret}"')
        path.start()
        path.client.hset("before", "n", "1")
        wait_for(lambda: b"before" in path.last(), "a change before")
        path.client.execute_command("ACL", "SETUSER", "engine", "resetpass", ">hunter3")
        with path.client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("CLIENT", "KILL", "USER", "engine")
            pipeline.hset("in-the-gap", "n", "2")
            pipeline.execute()
        wait_for(lambda: "WRONGPASS" in path.log(), "a connection that is refused")
        secret.write_text("hunter3\n")
        wait_for(lambda: b"in-the-gap" in path.last(), "the change of the gap")
        path.client.hset("after", "n", "3")
        wait_for(lambda: b"after" in path.last(), "a change after")
        assert path.stop() == 0
        assert "hunter" not in path.log()
