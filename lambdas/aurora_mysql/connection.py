"""The container's connection: made when it is needed, kept, and made again when it is broken or was idle for long."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import pymysql

from lambdas.aurora_mysql.credentials import Credentials
from lambdas.aurora_mysql.errors import ACCESS_DENIED, Nature, ServerError, understood
from lambdas.aurora_mysql.settings import Settings
from lambdas.contract import SetupError

SQL_MODE = ",".join(
    (
        "STRICT_ALL_TABLES",
        "NO_ZERO_IN_DATE",
        "NO_ZERO_DATE",
        "ERROR_FOR_DIVISION_BY_ZERO",
        "NO_ENGINE_SUBSTITUTION",
        # Else a key that is 0 would be given the next number.
        "NO_AUTO_VALUE_ON_ZERO",
    )
)


class Connection:
    """One connection to the server, with a session of our own settings. Every error is a `ServerError`.

    ``clock_s`` is the wall clock: others may stand still while Lambda has the container frozen.
    """

    def __init__(
        self, settings: Settings, credentials: Credentials, *, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._clock_s = clock_s
        self._raw: pymysql.Connection[Any] | None = None
        self._used_s = 0.0
        self.packet_bytes_max = 0

    def ready(self) -> None:
        """Connect where there is no connection, or none that was used lately. Raises `SetupError` too."""
        if self._raw is not None and self._clock_s() - self._used_s > self._settings.idle_s_max:
            # A connection that sleeps too long is forgotten on the way: to find out would cost the read timeout.
            self.drop()
        if self._raw is None:
            self._raw = self._login()
            ((self.packet_bytes_max,),) = self.query("SELECT @@max_allowed_packet")

    def execute(self, sql: str) -> None:
        """Run one statement."""
        self.query(sql)

    def query(self, sql: str) -> tuple[tuple[Any, ...], ...]:
        """Run one statement; return its rows."""
        raw = self._raw
        assert raw is not None, "ready() comes first"
        try:
            with raw.cursor() as cursor:
                cursor.execute(sql)
                rows = cursor.fetchall()
        except Exception as error:
            understanding = understood(error)
            if understanding.is_broken or not raw.open:
                self.drop()
            raise understanding from None
        self._used_s = self._clock_s()
        return tuple(rows)

    def drop(self) -> None:
        """Close the connection, without a word where it is broken."""
        raw, self._raw = self._raw, None
        if raw is not None and raw.open:
            raw.close()

    def _login(self) -> pymysql.Connection[Any]:
        try:
            return self._connect()
        except ServerError as error:
            if error.number != ACCESS_DENIED or not self._credentials.renew():
                raise
        return self._connect()

    def _connect(self) -> pymysql.Connection[Any]:
        settings = self._settings
        user, password = self._credentials.login()
        session = (
            f"SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', "
            f"innodb_lock_wait_timeout = {settings.lock_wait_s}, lock_wait_timeout = {settings.lock_wait_s}"
        )
        try:
            return pymysql.connect(
                host=settings.host,
                port=settings.port,
                user=user,
                # Text would be sent as Latin-1.
                password=password.encode(),
                database=settings.database,
                charset="utf8mb4",
                autocommit=True,
                init_command=session,
                connect_timeout=settings.connect_timeout_ms / 1_000,
                read_timeout=settings.read_timeout_ms / 1_000,
                write_timeout=settings.read_timeout_ms / 1_000,
                program_name="lambdas.aurora_mysql",
                **_tls(settings),
            )
        except SetupError:
            raise
        except RuntimeError as error:
            # A server that asks for a password encrypted by hand; over TLS it never does.
            raise ServerError(Nature.SETUP, f"{error}: use TLS") from None
        except Exception as error:
            understanding = understood(error)
            if understanding.nature is Nature.ROWS:
                understanding.nature = Nature.SETUP
            raise understanding from None


def _tls(settings: Settings) -> dict[str, Any]:
    """Return pymysql's arguments; a context of our own, since without one it verifies nothing unless it has a file."""
    if settings.tls == "off":
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"AURORA_TLS_CA: no certificates can be read from {settings.tls_ca}: {error}") from None
    # Python 3.13 demands extensions that certificates of databases often lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.tls == "required":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}
