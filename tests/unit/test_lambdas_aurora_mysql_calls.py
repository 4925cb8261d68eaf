from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pymysql
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from lambdas.aurora_mysql import connection as connections
from lambdas.aurora_mysql.calls import Caller
from lambdas.aurora_mysql.connection import Connection
from lambdas.aurora_mysql.credentials import Password, Secret, Token, credentials_of
from lambdas.aurora_mysql.errors import GivenUp, Nature, ServerError, understood
from lambdas.aurora_mysql.mapping import read_mappings
from lambdas.aurora_mysql.settings import Settings
from lambdas.aurora_mysql.statements import Form, Row
from lambdas.aurora_mysql.writer import Writer
from lambdas.contract import UNBOUNDED_MS, Deadline, DestinationUnavailable, SetupError
from lambdas.repeats import DEADLINE_PASSED, TimeLeft

MAPPINGS = read_mappings('{"keys": ["*"], "table": "t", "key": {"column": "k"}, "columns": {"f": "text"}}')


def settings(**more: Any) -> Settings:
    return Settings("db.example", "writer", "shop", MAPPINGS, **{"region": "eu-west-1"} | more)


def mysql(number: int, text: str = "said so") -> ServerError:
    return understood(pymysql.err.OperationalError(number, text))


class ScriptedConnection:
    """Fails by a script, then succeeds; notes what it was asked."""

    packet_bytes_max = 1 << 20

    def __init__(self, *errors: ServerError, ready: Callable[[], None] = lambda: None) -> None:
        self.errors = list(errors)
        self.ready = ready
        self.statements: list[str] = []

    def execute(self, sql: str) -> None:
        self.statements.append(sql)
        if self.errors:
            raise self.errors.pop(0)

    def query(self, sql: str) -> tuple[tuple[Any, ...], ...]:
        self.execute(sql)
        return ()


class Clock:
    """Unix time that only sleeps move on."""

    def __init__(self) -> None:
        self.ms = 1_000.0
        self.sleeps_ms: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps_ms.append(seconds * 1_000)
        self.ms += seconds * 1_000

    def time_left(self, deadline_ms: int = 0, remaining_ms: int = 60_000) -> TimeLeft:
        ends_ms = self.ms + remaining_ms
        return TimeLeft(lambda: int(ends_ms - self.ms), Deadline(deadline_ms), lambda: int(self.ms))


def caller(connection: ScriptedConnection, clock: Clock, **more: Any) -> Caller:
    return Caller(connection, settings(**more), sleep=clock.sleep, rng=lambda: 1.0)  # type: ignore[arg-type]


# --- retries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1205, 1213, 1040, 1290, 2003, 2006, 2013, 1053, 1927])
def test_what_passes_is_tried_again(number: int) -> None:
    """Deadlocks, lock waits, failovers and lost connections are repeated, each wait twice as long, up to the bound."""
    connection, clock = ScriptedConnection(*(mysql(number) for _ in range(4))), Clock()
    caller(connection, clock, backoff_ms_max=80).run("INSERT", clock.time_left())
    assert len(connection.statements) == 5
    assert clock.sleeps_ms == [25, 50, 80, 80]


def test_attempts_end() -> None:
    """After the last attempt the reason is the last error's."""
    connection, clock = ScriptedConnection(*(mysql(1213, "deadlock") for _ in range(9))), Clock()
    with pytest.raises(GivenUp, match="deadlock") as gone:
        caller(connection, clock, attempts_max=3).run("INSERT", clock.time_left())
    assert (len(connection.statements), gone.value.number) == (3, 1213)


def test_no_wait_ends_after_the_deadline_or_eats_lambdas_reserve() -> None:
    """A repeat that could not start in time is not waited for."""
    for limits in ({"deadline_ms": 1_060}, {"remaining_ms": 1_060}):
        connection, clock = ScriptedConnection(*(mysql(1213) for _ in range(9))), Clock()
        with pytest.raises(GivenUp):
            caller(connection, clock).run("INSERT", clock.time_left(**limits))
        assert clock.sleeps_ms == [25]


def test_a_connection_that_takes_past_the_deadline_writes_nothing() -> None:
    """The deadline is asked after the connection was made, right before the statement."""
    clock = Clock()
    connection = ScriptedConnection(ready=lambda: clock.sleep(1))
    with pytest.raises(GivenUp, match=DEADLINE_PASSED):
        caller(connection, clock).run("INSERT", clock.time_left(deadline_ms=1_500))
    assert connection.statements == []


@pytest.mark.parametrize("number", [1045, 1044, 1049, 1054, 1142, 1146, 1364, 2026])
def test_what_no_retry_mends_is_told_at_once(number: int) -> None:
    """A missing table, right or way in is a `SetupError` with a remedy, after one attempt."""
    connection, clock = ScriptedConnection(mysql(number, "said so")), Clock()
    with pytest.raises(SetupError, match=r"said so \(error \d+\): \w+"):
        caller(connection, clock).run("INSERT", clock.time_left())
    assert len(connection.statements) == 1


@pytest.mark.parametrize("number", [1406, 1264, 1366, 1292, 1048, 1062, 1452, 3819, 4025, 9_999])
def test_what_is_wrong_with_a_row_is_not_tried_again(number: int) -> None:
    """It is handed on, so that the row can be found."""
    connection, clock = ScriptedConnection(mysql(number)), Clock()
    with pytest.raises(ServerError):
        caller(connection, clock).run("INSERT", clock.time_left())
    assert len(connection.statements) == 1


def test_a_broken_answer_is_a_lost_connection() -> None:
    """What the driver stumbles over says nothing of the rows, and its connection is not used again."""
    for error in (pymysql.err.InternalError("Packet sequence number wrong"), pymysql.err.InterfaceError(0, "")):
        assert (understood(error).nature, understood(error).is_broken) == (Nature.PASSING, True)


def test_a_certificate_that_does_not_verify_is_a_setup_error() -> None:
    """Nobody can mend it by trying again."""
    error = pymysql.err.OperationalError(2003, "Can't connect")
    error.original_exception = ssl.SSLCertVerificationError()  # type: ignore[attr-defined]
    error.original_exception.verify_message = "self-signed"  # type: ignore[attr-defined]
    assert understood(error).nature is Nature.SETUP
    assert "signed by an authority in AURORA_TLS_CA: self-signed" in str(understood(error).setup_error())


def test_after_giving_up_no_further_statement_is_sent() -> None:
    """When the server is away all rows fail with the reason, after the attempts of one statement."""
    connection, clock = ScriptedConnection(*(mysql(2013, "gone") for _ in range(99))), Clock()
    writer = Writer(caller(connection, clock, statement_rows_max=1), settings(statement_rows_max=1))
    rows = [Row(n, "x", 1) for n in range(3)]
    failed = writer._write_rows(Form("", ",", "", ""), rows, clock.time_left())
    assert set(failed) == {0, 1, 2}
    assert len(connection.statements) == settings().attempts_max


# --- logging in ---------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


class Server:
    """Stands for pymysql: takes one password, and notes how it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, password: Callable[[bytes], bool]) -> None:
        self.password = password
        self.asked: list[dict[str, Any]] = []
        self.open = True
        monkeypatch.setattr(connections.pymysql, "connect", self.connect)

    def connect(self, **arguments: Any) -> Server:
        self.asked.append(arguments)
        if not self.password(arguments["password"]):
            raise pymysql.err.OperationalError(1045, "Access denied for user 'writer'@'%' (using password: YES)")
        return self

    def cursor(self) -> Server:
        return self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, sql: str) -> None: ...

    def fetchall(self) -> list[tuple[int]]:
        return [(1 << 20,)]

    def close(self) -> None: ...


def test_iam_logs_in_by_a_new_token_for_each_connection(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is a signed token for host, port and user, made anew for each connection, sent over TLS alone."""
    server = Server(monkeypatch, lambda password: True)
    used = settings(auth="iam", port=3307, idle_s_max=60)
    now_s = [0.0]
    connection = Connection(used, credentials_of(used), clock_s=lambda: now_s[0])
    tokens = []
    for at_s in (0.0, 59.0, 900.0):
        now_s[0] = at_s
        connection.ready()
        connection.execute("SELECT 1")
    for asked in server.asked:
        assert asked["user"] == "writer"
        assert asked["ssl"].verify_mode is ssl.CERT_REQUIRED
        assert asked["ssl"].check_hostname
        tokens.append(asked["password"].decode())
    assert len(tokens) == 2
    parts = urlsplit(f"//{tokens[0]}")
    query = parse_qs(parts.query)
    assert (parts.hostname, parts.port) == ("db.example", 3307)
    assert (query["Action"], query["DBUser"]) == (["connect"], ["writer"])
    assert "rds-db" in query["X-Amz-Credential"][0]


def test_a_token_is_made_anew_each_time(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is remembered: it would be refused after 15 minutes."""
    token = Token(settings(auth="iam"))
    token.login()
    made = iter(["first", "second"])
    monkeypatch.setattr(token._client, "generate_db_auth_token", lambda *_: next(made))
    assert [token.login()[1], token.login()[1]] == ["first", "second"]


def test_a_secret_is_read_once_and_again_after_a_rotation(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of Secrets Manager is remembered until the server refuses it; then the new one is tried at once."""
    client = boto3.client("secretsmanager", region_name="eu-west-1")
    client.create_secret(Name="db", SecretString=json.dumps({"username": "writer", "password": "old"}))
    current = [b"old"]
    server = Server(monkeypatch, lambda password: password == current[0])
    used = settings(secret="db", idle_s_max=0)
    now_s = iter(range(0, 1_000, 10))
    connection = Connection(used, credentials_of(used), clock_s=lambda: float(next(now_s)))
    connection.ready()
    client.put_secret_value(SecretId="db", SecretString=json.dumps({"username": "writer", "password": "new"}))
    current[0] = b"new"
    connection.ready()
    assert [asked["password"] for asked in server.asked] == [b"old", b"old", b"new"]
    current[0] = b"other"
    with pytest.raises(ServerError) as error:
        connection.ready()
    assert error.value.nature is Nature.SETUP
    assert len(server.asked) == 5


@pytest.mark.parametrize("text", ["hunter2", "[]", '{"user": "hunter2"}'])
def test_a_secret_of_another_shape(aws: None, text: str) -> None:
    """It is a setup error that names the secret and shows nothing of it."""
    boto3.client("secretsmanager", region_name="eu-west-1").create_secret(Name="db", SecretString=text)
    with pytest.raises(SetupError, match="username and password") as error:
        Secret(settings(secret="db")).login()
    assert "hunter2" not in str(error.value)


def test_a_secret_that_is_not_there(aws: None) -> None:
    """It is a setup error that names it and the right that is needed."""
    with pytest.raises(SetupError, match=r"the secret nosuch .*secretsmanager:GetSecretValue"):
        Secret(settings(secret="nosuch")).login()


def test_a_throttled_secrets_manager_passes(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the connection is tried again later."""
    secret = Secret(settings(secret="db"))
    with pytest.raises(SetupError):
        secret.login()

    def throttled(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "GetSecretValue")

    monkeypatch.setattr(secret._client, "get_secret_value", throttled)
    with pytest.raises(ServerError) as error:
        secret.login()
    assert error.value.nature is Nature.PASSING


@pytest.mark.parametrize("code", ["ExpiredTokenException", "InvalidSignatureException", "RequestExpired"])
def test_a_signature_that_secrets_manager_does_not_take(aws: None, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The next attempt is signed anew, by a client of its own; where none is taken, it is no fault of the rows."""
    made: list[Any] = []

    class Refusing:
        class meta:
            class service_model:
                service_id = type("Id", (), {"hyphenize": staticmethod(lambda: "secrets-manager")})

            events = type("Events", (), {"register": staticmethod(lambda *_: None)})

        def get_secret_value(self, **_: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": ""}}, "GetSecretValue")

    def client(*_: Any, **__: Any) -> Any:
        made.append(Refusing())
        return made[-1]

    monkeypatch.setattr(boto3.Session, "client", client)
    used = settings(secret="db", attempts_max=3)
    caller = Caller(Connection(used, credentials_of(used)), used, sleep=lambda _: None)
    with pytest.raises(DestinationUnavailable, match=code):
        caller.run("DO 0", TimeLeft(lambda: 60_000, Deadline(), lambda: 0))
    assert len(made) == 3


def test_a_connection_that_took_too_long_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is asked after connecting, and has to leave room for the statement's own timeout."""
    clock, ran = [1], list[str]()

    class Slow:
        def ready(self) -> None:
            clock[0] += 8_000

        def execute(self, sql: str) -> None:
            ran.append(sql)

    used = settings(password="p", read_timeout_ms=2_500)
    caller = Caller(Slow(), used, sleep=lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(GivenUp, match="too near"):
        caller.run("DO 0", TimeLeft(lambda: 60_000, Deadline(10_001), lambda: clock[0]))
    assert ran == []
    caller.run("DO 0", TimeLeft(lambda: 60_000, Deadline(clock[0] + 10_501), lambda: clock[0]))
    assert ran == ["DO 0"]


def test_a_password_of_the_environment() -> None:
    """It is what the variable says, in UTF-8, and never another."""
    password = credentials_of(settings(password="pässword"))
    assert isinstance(password, Password)
    assert password.login() == ("writer", "pässword")
    assert not password.renew()


def test_the_session_is_strict_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut, times are UTC, and the server gives up a lock before the client gives up the server."""
    server = Server(monkeypatch, lambda password: password == "pässword".encode())
    used = settings(password="pässword", read_timeout_ms=4_500)
    Connection(used, credentials_of(used)).ready()
    (asked,) = server.asked
    for part in ("STRICT_ALL_TABLES", "time_zone = '+00:00'", "innodb_lock_wait_timeout = 3", "lock_wait_timeout = 3"):
        assert part in asked["init_command"]
    assert asked["charset"] == "utf8mb4"
    assert asked["autocommit"] is True
    assert (asked["connect_timeout"], asked["read_timeout"], asked["write_timeout"]) == (1.0, 4.5, 4.5)


def test_time_without_a_deadline_is_unbounded() -> None:
    """A batch without a deadline is bounded by Lambda alone."""
    left = TimeLeft(lambda: UNBOUNDED_MS, Deadline(), lambda: 0)
    assert not left.is_over()
    assert left.allows(1e9, 1_000)
