"""What the server's errors mean, and what is to be done about them.  (pure but for pymysql's types)"""

from __future__ import annotations

import ssl
from enum import Enum, auto

import pymysql

from lambdas.contract import SetupError

CANNOT_CONNECT = 2003
GONE = 2006
LOST = 2013
ACCESS_DENIED = 1045
DUPLICATE_COLUMN = 1060

READ_ONLY = frozenset({1290, 1836})
"""A server that is, or has become, a reader."""

_CONNECTION_IS_FINE = frozenset({1020, 1205, 1213, 1412, 1969, 3024})
"""A row that has changed, lock wait, deadlock, a table that has changed, statement timeouts: the connection is good."""

_PASSING = (
    _CONNECTION_IS_FINE
    | READ_ONLY
    | {CANNOT_CONNECT, GONE, LOST, 2055}
    # Too many connections, no memory, no thread, disk full, shutdown, killed, network.
    | {1021, 1037, 1040, 1041, 1053, 1105, 1114, 1135, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1317, 1927}
)

_REMEDIES = {
    1044: "grant the user its rights on the database",
    ACCESS_DENIED: (
        "check AURORA_USER and its password; with AURORA_AUTH=iam, the permission rds-db:connect; "
        "with AURORA_TLS=off, whether the user or the server requires TLS"
    ),
    1049: "create it, or name another in AURORA_DATABASE",
    1054: "the table has changed: check its columns, or AURORA_MAPPING",
    1129: "the server blocks this host: flush its hosts",
    1130: "the server allows no connections from here: create the user for this host",
    1142: "grant the user INSERT, UPDATE and SELECT on the table (DELETE, ALTER where the mapping needs them)",
    1143: "grant the user INSERT, UPDATE and SELECT on all columns of the mapping",
    1146: "create the table, or name another in AURORA_MAPPING",
    1251: "this client does not support the server's authentication method",
    1364: "give the column a default, make it nullable, or map a field to it",
    1524: "enable IAM authentication on the cluster",
    1698: "check AURORA_USER and its password",
    1820: "the user has to change its password",
    1862: "the user's password has expired",
    2026: "enable TLS on the server, or set AURORA_TLS to off if the network path is safe",
    2059: "this client does not support the server's authentication method",
    3118: "the user is locked",
    3159: "the server requires TLS: remove AURORA_TLS",
    4151: "the user is locked",
}
"""Errors that no retry can mend, with what does."""

WRITER_WANTED = "the server only reads: name the cluster's writer endpoint in AURORA_HOST"


class Nature(Enum):
    """Whom an error is about."""

    PASSING = auto()
    """Nobody: the same statement may succeed a moment later."""
    CALL = auto()
    """Nobody either, but no statement can succeed before it is over: the function's credentials, or its clock."""
    SETUP = auto()
    """The function, or the database, is set up wrongly."""
    ROWS = auto()
    """What is in the statement."""


class ServerError(Exception):
    """A statement, or a connection, failed; ``is_broken`` where the connection can't be used any more."""

    def __init__(self, nature: Nature, message: str, number: int = 0, *, is_broken: bool = False) -> None:
        super().__init__(message)
        self.nature = nature
        self.message = message
        self.number = number
        self.is_broken = is_broken

    def setup_error(self) -> SetupError:
        """Return what tells the user of it."""
        remedy = _REMEDIES.get(self.number, "")
        return SetupError(f"{self.message}: {remedy}" if remedy else self.message)


class GivenUp(Exception):
    """There was no time, or no attempt, left; ``number`` is the last error's."""

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.number = number


def understood(error: Exception) -> ServerError:
    """Return what pymysql's error means."""
    number, text = _number_and_text(error)
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the server's certificate is not signed by an authority in AURORA_TLS_CA: {cause.verify_message}"
        return ServerError(Nature.SETUP, f"{why}; give the authority's certificates, for Aurora those of RDS", number)
    if number in _REMEDIES:
        return ServerError(Nature.SETUP, text, number)
    if number in _PASSING or not number:
        # Without a number it is the client that stumbles over what it was sent.
        is_broken = number not in _CONNECTION_IS_FINE
        return ServerError(Nature.PASSING, f"the server could not do it: {text}", number, is_broken=is_broken)
    return ServerError(Nature.ROWS, text, number)


def _number_and_text(error: Exception) -> tuple[int, str]:
    if isinstance(error, pymysql.MySQLError) and len(error.args) >= 2 and isinstance(error.args[0], int):
        return error.args[0], f"{error.args[1]} (error {error.args[0]})"
    return 0, f"{type(error).__name__}: {error}"
