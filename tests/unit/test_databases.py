"""Several databases: what settings may say of them, and what was kept for one of them before."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RouteSettings
from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.backlog.moves import rehome
from engine.delivery.targets.batches import parts_of
from engine.destination.stored import StoredKeys
from engine.errors import ConfigError
from engine.routing.databases import Databases, keys_shown, route_inside
from engine.settings.file import load_settings
from engine.supervision.progress.checkpoint import FORMAT, Checkpoint, NodeKept
from engine.supervision.progress.databases import among_databases
from engine.supervision.progress.snapshots import Heard, need_of

REGION = {"AWS_REGION": "us-east-1"}
ROUTE = '[[routes]]\nname = "all"\nfunction = "f"\n'
SEVERAL = Databases((0, 3), 0)
BYTES_MAX = 1 << 24


def load(tmp_path: Path, redis: str, route: str = ROUTE, **environment: str) -> tuple[str, object]:
    file = tmp_path / "engine.toml"
    file.write_text(f"[redis]\n{redis}\n{route}")
    settings = load_settings(str(file), REGION | environment, {})
    return settings.redis.url, settings.redis.databases


def problem(tmp_path: Path, redis: str, route: str = ROUTE) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, redis, route)
    (one,) = caught.value.problems
    assert one.hint
    return str(one)


def test_one_database_is_the_urls(tmp_path: Path) -> None:
    """A list of one is the same as a URL that names it; several are sorted, and the URL has the engine's own."""
    assert load(tmp_path, "databases = [7]") == ("redis://127.0.0.1:6379/7", "")
    assert load(tmp_path, 'databases = [3]\nurl = "unix:///tmp/s?db=3"') == ("unix:///tmp/s?db=3", "")
    assert load(tmp_path, "databases = [3, 1]") == ("redis://127.0.0.1:6379/1", (1, 3))
    assert load(tmp_path, 'databases = [3, 1]\nurl = "redis://h:1/3"') == ("redis://h:1/3", (1, 3))
    sentinels = 'databases = [1, 2]\nurl = "redis+sentinel://h:1,i:2/mine"'
    assert load(tmp_path, sentinels) == ("redis+sentinel://h:1,i:2/mine/1", (1, 2))
    assert load(tmp_path, 'databases = "*"')[1] == "*"
    assert load(tmp_path, "", ENGINE_REDIS_DATABASES="1, 2") == ("redis://127.0.0.1:6379/1", (1, 2))
    assert load(tmp_path, "", ENGINE_REDIS_DATABASES="*")[1] == "*"


@pytest.mark.parametrize(
    ("redis", "words"),
    [
        ("databases = []", "names no database"),
        ("databases = [1, 0, 1]", "names 1 twice"),
        ("databases = [0, -1]", "names -1, which is not a database"),
        (f"databases = {list(range(300))}", "names 300 databases, and 256 are allowed"),
        ('databases = [1, 2]\nurl = "redis://h:1/0"', "does not hold 0, the database that"),
    ],
)
def test_bad_lists(tmp_path: Path, redis: str, words: str) -> None:
    """Each is one line, with what to do."""
    assert words in problem(tmp_path, redis)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("databases = [5]", "names 5, which is not captured"),
        ("databases = [3, 3]", "names one twice"),
        ('payload = "original"', "name one"),
        ('destination = "dynamodb://table"', "one item for keys of the same name"),
    ],
)
def test_bad_routes(tmp_path: Path, options: str, words: str) -> None:
    """A route takes captured databases alone, and its destination keeps them apart."""
    assert words in problem(tmp_path, "databases = [0, 3]", ROUTE + options)


def test_two_routes_may_not_meet_in_one_table(tmp_path: Path) -> None:
    """Keys of two databases go to two tables, or say their database."""
    table = 'destination = "dynamodb://table{}"\ndatabases = [{}]\n'
    second = ROUTE.replace("all", "other")
    both = ROUTE + table.format("", 0) + second + table.format("", 3)
    assert "is the table of" in problem(tmp_path, "databases = [0, 3]", both)
    load(tmp_path, "databases = [0, 3]", ROUTE + table.format("", 0) + second + table.format("_three", 3))
    load(tmp_path, "databases = [0, 3]", ROUTE + 'destination = "dynamodb://table?database_in_key=on"')
    users, carts = ('keys = ["user:*"]\n', 'keys = ["cart:*"]\n')
    load(tmp_path, "databases = [0, 3]", ROUTE + table.format("", 0) + users + second + table.format("", 3) + carts)


def test_routes_take_keys_with_their_database() -> None:
    """Globs get each of the route's databases before them; people see what they wrote."""
    route = RouteSettings("r", "f", keys=("a*", "b"))
    assert route_inside(route, Databases.one(3)) == route
    several = route_inside(route, SEVERAL)
    assert several.keys == ("0__:a*", "3__:a*", "0__:b", "3__:b")
    assert keys_shown(several) == ("a*", "b")
    assert route_inside(RouteSettings("r", "f", databases=(3,)), SEVERAL).keys == ("3__:*",)


def test_a_checkpoint_goes_on_with_more_databases_and_fewer() -> None:
    """The watermark counts on where the server is the same; a route lacks what is new of the whole keyspace."""
    route = RouteSettings("r", "f", starting_position="TRIM_HORIZON")
    heard = {"r": Heard.by(route, is_whole=True)}
    one = Checkpoint("h:1/3 slice 0/2", format=FORMAT, heard=heard, nodes={"": NodeKept(1_000)}, routes=("r",))
    more = among_databases(one, "h:1/* slice 0/2", (0, 3))
    assert (more.scope, more.heard["r"].keys, more.nodes) == ("h:1/* slice 0/2", ("3__:*",), one.nodes)
    need = need_of(more.heard["r"], route_inside(route, SEVERAL))
    assert need is not None and need.delivered == ("3__:*",)
    kept = Checkpoint("h:1/*", format=FORMAT, heard={"r": Heard.by(route_inside(route, SEVERAL), is_whole=True)},
                      databases=(0, 3))  # fmt: skip
    fewer = among_databases(kept, "h:1/3", (3,))
    assert (fewer.scope, fewer.heard["r"].keys) == ("h:1/3", ("*",))
    assert need_of(fewer.heard["r"], route) is None
    for other in ("i:1/*", "h:1/5", "cluster"):
        assert among_databases(one, other, (0, 5)) == one
    assert among_databases(kept, "h:1/5", (5,)) == kept


def rows(folder: Path, *, of_several: bool) -> dict[bytes, int]:
    backlog = Backlog(str(folder), 0, 1, BYTES_MAX, of_several=of_several)
    assert backlog.open() == ""
    found = {row.key: row.attempts for some in backlog.rows("r") for row in some}
    backlog.close()
    return found


def test_what_waits_on_disk_is_known_by_its_database(tmp_path: Path) -> None:
    """Rows of one database become those of one among several, and back; the others are let go."""
    backlog = Backlog(str(tmp_path), 0, 1, BYTES_MAX)
    assert backlog.put("r", [BacklogRow(b"a", "hset", 1, attempts=7), BacklogRow(b"", "hset", 1)]) == ""
    backlog.close()
    assert rehome(str(tmp_path), 1, BYTES_MAX, SEVERAL, 3) == ""
    assert rows(tmp_path, of_several=True) == {b"3__:a": 7, b"3__:": 0}
    assert rehome(str(tmp_path), 1, BYTES_MAX, SEVERAL, 3) == ""
    backlog = Backlog(str(tmp_path), 0, 1, BYTES_MAX, of_several=True)
    assert backlog.put("r", [BacklogRow(b"0__:a", "hset", 1, attempts=2)]) == ""
    backlog.close()
    assert rehome(str(tmp_path), 1, BYTES_MAX, Databases.one(0)) == ""
    assert rows(tmp_path, of_several=False) == {b"a": 2}
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_items_say_their_database() -> None:
    """With the database in their names, items of two databases are two; others are nobody's."""
    stored = StoredKeys(None, 0, in_key=True)
    for key, name in (
        (b"3__:a", "3:a"),
        (b"0__:", "0:"),
        (b"0__:\xff", "0:base64:/w=="),
        (b"0__:utf8:", "0:utf8:utf8:"),
    ):
        assert (stored.name_of(key), stored.key_of(name)) == (name, key)
    for strange in ("a", "x:a", "03:a", "3:base64:YQ=="):
        assert stored.key_of(strange) is None
    assert StoredKeys(3, 3, in_key=True).key_of("0:a") is None
    assert StoredKeys(3, 3, in_key=True).key_of("3:a") == b"a"
    assert StoredKeys(None, 3).key_of("a") == b"3__:a"


def test_messages_of_two_databases_are_two() -> None:
    """What a queue knows a message by tells keys of one name apart, though all else is equal."""
    record = '{{"record_id":"0","id":"a","version":7,"captured_at_ms":1,"event":"hset","db":{}}}'
    payload = '{"records":[' + record.format(0) + "," + record.format(3) + "]}"
    first, second = parts_of(payload.encode())
    assert first.key == second.key
    assert (first.identity, second.identity) == ("7-1-hset", "3:7-1-hset")
