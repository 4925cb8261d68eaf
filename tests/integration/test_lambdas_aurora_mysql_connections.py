from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from lambdas.aurora_mysql import credentials
from lambdas.aurora_mysql import handler as function
from lambdas.contract import SetupError
from tests.aurora_carts import CARTS, Context, SetUp, cart, invoke, new_containers, record
from tests.mariadb import PASSWORD, USER, MariaDB, mariadb_server, needs_mariadb
from tests.support import wait_for, whole_path

pytestmark = needs_mariadb


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    with mariadb_server() as running:
        yield running


@pytest.fixture
def set_up(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    with new_containers(server, monkeypatch) as apply:
        yield apply


def test_two_writers_at_once_end_at_the_newest_version(server: MariaDB, set_up: SetUp) -> None:
    """Two functions that write the same rows in opposite orders, over and over, leave each row at its newest value."""
    settings = function._settings()
    failures: list[Any] = []

    def run(odd: int) -> None:
        connection = function.Connection(settings, function.credentials_of(settings))
        writer = function.Writer(function.Caller(connection, settings), settings)
        left = function.TimeLeft(Context().get_remaining_time_in_millis, function.contract.Deadline(), function.now_ms)
        for turn in range(20):
            version = 2 * turn + 1 + odd
            order = range(200) if odd else range(199, -1, -1)
            batch = [record(n, f"cart:{n}", {"qty": str(version)}, version) for n in order]
            records, _ = function.contract.records_of({"records": batch})
            failures.append(function.write(settings, writer, records, left))

    threads = [threading.Thread(target=run, args=(odd,)) for odd in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [{}] * 40
    assert server.execute("SELECT DISTINCT quantity, version FROM carts") == [(40, 40)]
    assert server.execute("SELECT COUNT(*) FROM carts") == [(200,)]


def test_an_invocation_waits_for_a_lock_no_longer_than_its_client(server: MariaDB, set_up: SetUp) -> None:
    """A row that somebody else holds is tried again, and written when it is let go."""
    invoke(record(0, "cart:1", {"qty": "1"}, 1))
    before = server.status("Innodb_row_lock_waits")
    with server.root() as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM ingest.carts WHERE cart_id = '1' FOR UPDATE")

        def let_go() -> None:
            while server.status("Innodb_row_lock_waits") < before + 2:
                time.sleep(0.02)
            cursor.execute("ROLLBACK")

        thread = threading.Thread(target=let_go)
        thread.start()
        assert invoke(record(0, "cart:1", {"qty": "2"}, 2)) == []
        thread.join()
    assert cart(server, "1", "quantity") == (2,)


def test_a_connection_is_kept_and_replaced(server: MariaDB, set_up: SetUp) -> None:
    """Invocations share a connection; one that the server has closed is made anew, and the batch written."""
    before = server.status("Connections")
    for version in (1, 2, 3):
        invoke(record(0, "cart:1", {"qty": str(version)}, version))
    # One is the function's, one our own question's.
    assert server.status("Connections") - before == 2
    for (number,) in server.execute(f"SELECT id FROM information_schema.PROCESSLIST WHERE user = '{USER}'"):
        server.execute(f"KILL {number}")
    assert invoke(record(0, "cart:1", {"qty": "4"}, 4)) == []
    assert cart(server, "1", "quantity") == (4,)


def test_a_server_that_is_killed_and_restarted(
    server: MariaDB, set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it is gone all records fail with the reason; once it is back the same container writes them."""
    assert invoke(record(0, "cart:1", {"qty": "1"}, 1)) == []
    set_up(AURORA_ATTEMPTS_MAX="2")
    server.kill()
    try:
        assert invoke(record(0, "cart:1", {"qty": "2"}, 2)) == ["0"]
        assert "Can't connect" in capsys.readouterr().out
        with pytest.raises(RuntimeError, match="could not be asked"):
            invoke()
    finally:
        server.start()
    assert invoke(record(0, "cart:1", {"qty": "2"}, 2)) == []
    assert cart(server, "1", "quantity, version") == (2, 2)


def test_a_server_that_comes_back_within_the_deadline(server: MariaDB, set_up: SetUp) -> None:
    """One invocation outlasts a restart: it connects again and again until it is answered."""
    assert invoke(record(0, "cart:1", {"qty": "1"}, 1)) == []
    server.kill()
    set_up(AURORA_ATTEMPTS_MAX="100", AURORA_BACKOFF_MS_MIN="200")
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        assert invoke(record(0, "cart:1", {"qty": "2"}, 2)) == []
    finally:
        thread.join()
    assert cart(server, "1", "quantity") == (2,)


def test_a_server_that_only_reads(server: MariaDB, set_up: SetUp) -> None:
    """A reader is told at the start as what it is, which a failover may mend; a batch fails whole, to come again."""
    server.execute("SET GLOBAL read_only = 1")
    try:
        set_up(AURORA_ATTEMPTS_MAX="2")
        with pytest.raises(RuntimeError, match="writer endpoint") as caught:
            invoke()
        assert not isinstance(caught.value, SetupError)
        assert invoke(record(0, "cart:1", {})) == ["0"]
    finally:
        server.execute("SET GLOBAL read_only = 0")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AURORA_PASSWORD": "wr0ng"}, "AURORA_USER and its password"),
        ({"AURORA_DATABASE": "nowhere"}, "AURORA_DATABASE|database"),
        ({"AURORA_TLS_CA": ""}, "signed by an authority in AURORA_TLS_CA"),
        ({"AURORA_HOST": "localhost"}, "signed by an authority in AURORA_TLS_CA"),
        ({"AURORA_TLS_CA": "/nowhere.pem"}, "no certificates can be read"),
    ],
)
def test_no_way_in_is_one_clear_error(server: MariaDB, set_up: SetUp, variables: dict[str, str], told: str) -> None:
    """A wrong password, database, authority or name on the certificate is a `SetupError` that shows no secret."""
    set_up(**variables)
    for records in ([], [record(0, "cart:1", {})]):
        with pytest.raises(SetupError, match=told) as raised:
            invoke(*records)
        assert "wr0ng" not in str(raised.value)
        assert PASSWORD not in str(raised.value)


def test_tls_is_what_the_user_asked_for(server: MariaDB, set_up: SetUp) -> None:
    """The session is encrypted by default, without a look at the certificate on request, and in the clear if told."""
    for variables, is_encrypted in (
        ({}, True),
        ({"AURORA_TLS": "required", "AURORA_TLS_CA": ""}, True),
        ({"AURORA_TLS": "off"}, False),
    ):
        set_up(**variables)
        invoke()
        caller, left = (
            function._writer()._caller,
            function.TimeLeft(lambda: 9_999, function.contract.Deadline(), lambda: 0),
        )
        ((_, cipher),) = caller.query("SHOW STATUS LIKE 'Ssl_cipher'", left)
        assert bool(cipher) is is_encrypted


def test_a_server_that_wants_tls(server: MariaDB, set_up: SetUp) -> None:
    """Without TLS a server that requires it is a `SetupError`."""
    server.execute("SET GLOBAL require_secure_transport = 1")
    try:
        set_up(AURORA_TLS="off")
        with pytest.raises(SetupError, match="requires TLS"):
            invoke()
        set_up()
        assert invoke() == []
    finally:
        server.execute("SET GLOBAL require_secure_transport = 0")


def test_iam_on_a_real_connection(server: MariaDB, set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is the password that the server sees, over TLS, and a new connection brings a new one."""
    tokens = [f"db.example:3306/?Action=connect&X-Amz-Signature={'a' * 500}{n}" for n in range(2)]
    made = iter(tokens)

    def login(token: credentials.Token) -> tuple[str, str]:
        return "iam_user", next(made)

    server.execute(
        f"CREATE OR REPLACE USER iam_user@'%' IDENTIFIED BY '{tokens[0]}' REQUIRE SSL",
        "GRANT ALL ON ingest.* TO iam_user@'%'",
    )
    set_up(AURORA_USER="iam_user", AURORA_AUTH="iam")
    monkeypatch.delenv("AURORA_PASSWORD")
    monkeypatch.setattr(credentials.Token, "login", login)
    assert invoke(record(0, "cart:1", {"qty": "1"}, 1)) == []
    ((number,),) = server.execute("SELECT id FROM information_schema.PROCESSLIST WHERE user = 'iam_user'")
    server.execute(f"ALTER USER iam_user@'%' IDENTIFIED BY '{tokens[1]}'", f"KILL {number}")
    assert invoke(record(0, "cart:1", {"qty": "2"}, 2)) == []
    assert cart(server, "1", "quantity") == (2,)


def test_a_statement_that_takes_effect_late_replaces_nothing_newer(server: MariaDB, set_up: SetUp) -> None:
    """A statement that its client gave up, and that the server ends after a newer value came, changes no newer row."""
    server.execute(
        "CREATE OR REPLACE TRIGGER slow BEFORE INSERT ON carts FOR EACH ROW "
        "IF NEW.owner = 'slow' THEN DO GET_LOCK('held', 60); DO RELEASE_LOCK('held'); END IF"
    )
    set_up(AURORA_READ_TIMEOUT_MS="300", AURORA_ATTEMPTS_MAX="1")
    with server.root() as other, other.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('held', 1)")
        assert invoke(record(0, "cart:1", {"owner": "slow"}, 1), record(1, "cart:2", {"owner": "late"}, 1)) == [
            "0",
            "1",
        ]
        set_up()
        assert invoke(record(0, "cart:1", {"owner": "new"}, 2)) == []
        assert cart(server, "2") is None
        cursor.execute("DO RELEASE_LOCK('held')")
        wait_for(lambda: cart(server, "2") is not None, "the late statement's effect", 10)
    assert cart(server, "1", "owner, version") == ("new", 2)


def test_the_whole_path(server: MariaDB, set_up: SetUp, tmp_path: Path) -> None:
    """Hashes that are set, changed and deleted appear as rows, by an engine that knows nothing of tables."""
    variables = server.environment(AURORA_MAPPING=json.dumps([CARTS]))
    spec = FunctionSpec("aurora", "lambdas.aurora_mysql.handler:handler", environment=variables)
    with whole_path(tmp_path, functions=[spec]) as path:
        route = '[[routes]]\nname = "carts"\nfunction = "aurora"\nkeys = ["cart:*"]\nevents = ["hset", "del"]\n'
        path.write_config(route, shards=1, invokers=1)
        path.start()
        for number in range(300):
            path.client.hset(f"cart:{number}", mapping={"owner": "a", "qty": number, "total": "1.50"})
        for number in range(0, 300, 2):
            path.client.hset(f"cart:{number}", "qty", -1)
        path.client.delete("cart:7")
        total = "SELECT COUNT(*), SUM(quantity = -1), SUM(deleted_at IS NOT NULL) FROM carts"
        wait_for(lambda: server.execute(total) == [(300, 150, 1)], "all rows at their last values")
        assert path.stop() == 0
    assert cart(server, "9", "owner, quantity, total") == ("a", 9, Decimal("1.50"))
