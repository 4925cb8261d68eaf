"""A MariaDB server of the tests' own: it stands for Aurora MySQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.tls_proxy import Certificates, make_certificates

USER = "tester"
PASSWORD = 'o\'pen "sésame"'
DATABASE = "ingest"
START_S = 60.0

_TABLES = ("system_tables.sql", "performance_tables.sql", "system_tables_data.sql")
"""Ends of the names of the server's own scripts, which begin with mysql_ or mariadb_."""
_SETTINGS = (
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=2",
    "--performance-schema=OFF",
    "--skip-name-resolve",
)


def binary() -> Path | None:
    """Return the server's binary, or None where it is not installed."""
    found = shutil.which("mariadbd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    return Path(found) if found else None


needs_mariadb = pytest.mark.skipif(binary() is None, reason="no mariadbd here: `make mariadb` installs it")


@dataclass
class MariaDB:
    """A server with TLS on a port of its own, its data in ``folder``; `start` and `kill` it as often as needed."""

    folder: Path
    port: int
    certificates: Certificates
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        names = self.certificates
        self.process = subprocess.Popen(
            [
                *_command(self.folder),
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--socket={self.folder}/mysqld.sock",
                f"--pid-file={self.folder}/mysqld.pid",
                f"--ssl-ca={names.authority}",
                f"--ssl-cert={names.certificate}",
                f"--ssl-key={names.key}",
                *_SETTINGS,
                *self.arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "mariadbd.log").open("ab"),
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.root().close()
                return
            except pymysql.MySQLError as error:
                assert self.process.poll() is None, (self.folder / "mariadbd.log").read_text()
                assert time.monotonic() < deadline, f"mariadbd does not answer: {error}"
                time.sleep(0.02)

    def kill(self) -> None:
        """End the server at once, as a crash of its host would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def root(self) -> pymysql.Connection[Any]:
        """Return a new connection that may do everything, through the server's socket."""
        return pymysql.connect(
            unix_socket=f"{self.folder}/mysqld.sock", user="root", charset="utf8mb4", autocommit=True
        )

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root, in the tests' database; return the rows of the last."""
        with self.root() as connection, connection.cursor() as cursor:
            cursor.execute(f"USE {DATABASE}")
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def status(self, name: str) -> int:
        """Return one of the server's counters, as in ``SHOW GLOBAL STATUS``."""
        ((_, value),) = self.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
        return int(value)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the function's variables for this server, TLS verified; those given replace them."""
        return {
            "AURORA_HOST": "127.0.0.1",
            "AURORA_PORT": str(self.port),
            "AURORA_USER": USER,
            "AURORA_PASSWORD": PASSWORD,
            "AURORA_DATABASE": DATABASE,
            "AURORA_TLS_CA": str(self.certificates.authority),
        } | more


@contextmanager
def mariadb_server(*arguments: str) -> Iterator[MariaDB]:
    """Run a server with an empty database and a user that may do everything in it."""
    with tempfile.TemporaryDirectory(prefix="mariadb-") as name:
        folder = Path(name)
        (folder / "data" / "mysql").mkdir(parents=True)
        _bootstrap(folder)
        server = MariaDB(folder, _free_port(), make_certificates(folder), arguments)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()


def _bootstrap(folder: Path) -> None:
    """Make the system's tables, as ``mariadb-install-db`` does, which is not part of the server's package."""
    server = binary()
    assert server is not None
    shares = [server.resolve().parents[1] / "share" / name for name in ("mysql", "mariadb")]
    scripts = [next(path for share in shares for path in share.glob(f"*_{name}")) for name in _TABLES]
    password = PASSWORD.replace("'", "''")
    statements = [
        "USE mysql;",
        *(script.read_text() for script in scripts),
        "FLUSH PRIVILEGES;",
        "ALTER USER root@localhost IDENTIFIED BY '';",
        "GRANT ALL ON *.* TO root@localhost WITH GRANT OPTION;",
        f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;",
        f"CREATE USER {USER}@'%' IDENTIFIED BY '{password}';",
        f"GRANT ALL ON {DATABASE}.* TO {USER}@'%';",
    ]
    command = [*_command(folder), "--bootstrap", "--character-set-server=utf8mb4", *_SETTINGS]
    done = subprocess.run(command, input="\n".join(statements).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def _command(folder: Path) -> list[str]:
    server = binary()
    assert server is not None
    command = [str(server), "--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}"]
    # The server refuses to run as root unless it is told to.
    return [*command, "--user=root"] if os.geteuid() == 0 else command


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
