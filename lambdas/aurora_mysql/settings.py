"""The function's environment variables, checked once a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lambdas.aurora_mysql.mapping import TableMapping, read_mappings
from lambdas.contract import SetupError
from lambdas.environ import check_order, number, one_of, required

AUTHS = ("password", "iam")
TLS_MODES = ("verify", "required", "off")


@dataclass(frozen=True)
class Settings:
    """What the function was told; the README of this folder documents each."""

    host: str
    user: str
    database: str
    mappings: tuple[TableMapping, ...]
    port: int = 3306
    password: str = field(default="", repr=False)
    secret: str = ""
    auth: str = "password"
    region: str = ""
    tls: str = "verify"
    tls_ca: str = ""
    attempts_max: int = 8
    backoff_ms_min: int = 25
    backoff_ms_max: int = 2_000
    reserve_ms: int = 1_000
    connect_timeout_ms: int = 1_000
    read_timeout_ms: int = 2_500
    idle_s_max: int = 60
    statement_rows_max: int = 500
    statement_bytes_max: int = 1 << 20

    @property
    def refuses_older_versions(self) -> bool:
        """Tell whether no older value can replace a newer one: a deleted row takes its version along."""
        return all(mapping.leaves_tombstones for mapping in self.mappings)

    @property
    def lock_wait_s(self) -> int:
        """Return for how long the server lets a statement wait for a lock: it gives up before the client does."""
        return max(1, self.read_timeout_ms // 1_000 - 1)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings; raise `SetupError`, which names the variable and the remedy."""
    auth = one_of(environ, "AURORA_AUTH", AUTHS)
    tls = one_of(environ, "AURORA_TLS", TLS_MODES)
    secret = environ.get("AURORA_SECRET", "")
    _check_auth(environ, auth, tls, secret)
    settings = Settings(
        required(environ, "AURORA_HOST", "the cluster's writer endpoint"),
        "" if secret else required(environ, "AURORA_USER", "the database user that the function writes as"),
        required(environ, "AURORA_DATABASE", "the database that holds the tables"),
        read_mappings(_mapping_text(environ)),
        number(environ, "AURORA_PORT", Settings.port, 1, 65_535),
        environ.get("AURORA_PASSWORD", ""),
        secret,
        auth,
        environ.get("AWS_REGION", environ.get("AWS_DEFAULT_REGION", "")),
        tls,
        _file(environ, "AURORA_TLS_CA"),
        number(environ, "AURORA_ATTEMPTS_MAX", Settings.attempts_max, 1, 100),
        number(environ, "AURORA_BACKOFF_MS_MIN", Settings.backoff_ms_min, 1, 60_000),
        number(environ, "AURORA_BACKOFF_MS_MAX", Settings.backoff_ms_max, 1, 60_000),
        number(environ, "AURORA_RESERVE_MS", Settings.reserve_ms, 0, 60_000),
        number(environ, "AURORA_CONNECT_TIMEOUT_MS", Settings.connect_timeout_ms, 1, 900_000),
        number(environ, "AURORA_READ_TIMEOUT_MS", Settings.read_timeout_ms, 1, 900_000),
        number(environ, "AURORA_IDLE_S_MAX", Settings.idle_s_max, 0, 28_800),
        number(environ, "AURORA_STATEMENT_ROWS_MAX", Settings.statement_rows_max, 1, 10_000),
        number(environ, "AURORA_STATEMENT_BYTES_MAX", Settings.statement_bytes_max, 1_024, 1 << 30),
    )
    check_order("AURORA_BACKOFF_MS_MIN", settings.backoff_ms_min, "AURORA_BACKOFF_MS_MAX", settings.backoff_ms_max)
    return settings


def _check_auth(environ: Mapping[str, str], auth: str, tls: str, secret: str) -> None:
    """See that there is one way to log in, and that a token never travels in the clear."""
    has_password = "AURORA_PASSWORD" in environ
    if auth == "iam":
        if has_password or secret:
            raise SetupError("AURORA_AUTH=iam needs no password: remove AURORA_PASSWORD and AURORA_SECRET")
        if tls == "off":
            raise SetupError("AURORA_AUTH=iam sends its token as it is, and AURORA_TLS is off: remove AURORA_TLS")
    elif has_password == bool(secret):
        which = "both set" if secret else "not set, neither of them"
        raise SetupError(f"AURORA_PASSWORD and AURORA_SECRET are {which}: set one, or AURORA_AUTH=iam")


def _mapping_text(environ: Mapping[str, str]) -> str:
    """Return the mapping: the variable's own text, or that of the file that it names."""
    text = required(environ, "AURORA_MAPPING", "which keys go to which table, as JSON, or a file with it").strip()
    if text.startswith(("[", "{")):
        return text
    path = _file(environ, "AURORA_MAPPING")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"AURORA_MAPPING names the file {path}, which can't be read: {error}") from None


def _file(environ: Mapping[str, str], name: str) -> str:
    """Return the path of a file; one that is relative lies in the function's zip."""
    path = environ.get(name, "").strip()
    return os.path.join(environ.get("LAMBDA_TASK_ROOT", ""), path) if path else ""  # noqa: PTH118
