from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.config import RouteSettings, Settings
from engine.errors import ConfigError
from engine.routing.routes import RouteTable
from engine.settings.file import load_settings
from engine.settings.original import parse_function_cfg, routes_of

EXAMPLES = Path(__file__).parents[2] / "config"
ARN = "arn:aws:lambda:us-east-1:123456789012:function:Dynamo"
KEY = "__meta_record__Dynamo"
LINE = f"{KEY}|name, {KEY}, pattern, *, lambda, {ARN}"
ENVIRON = {
    "REDIS_MASTER_HOST": "cache.example",
    "REDIS_MASTER_PORT": "6380",
    "REDIS_SUB_CHANNEL": "__keyevent@3__:*",
    "META_MAP_SUFFIX": "__meta_record__",
    "SUPPORTED_COMMANDS": "hset,del",
    "AWS_DEFAULT_REGION": "us-east-1",
}
ROUTE = f'[[routes]]\nname = "{KEY}"\nfunction = "dynamodb"\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(environ: Mapping[str, str], text: str = "", flags: Mapping[str, object] = {}) -> Settings:
    Path("engine.toml").write_text(text)
    return load_settings("engine.toml", environ, flags)


def problem(environ: Mapping[str, str], text: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, text)
    assert len(caught.value.problems) == 1, caught.value.problems
    return str(caught.value)


def expected_route(name: str = KEY, function: str = ARN, key: str = "*", *events: str) -> RouteSettings:
    return RouteSettings(
        name=name,
        function=function,
        keys=(key,),
        events=events or ("hset", "del"),
        payload="original",
        batch_size=1,
        parallelization_factor=10,
    )


def test_the_originals_setup_as_it_was(here: Path) -> None:
    """Its environment and its functionCfg in the working directory are all that is needed."""
    (here / "functionCfg").write_text(LINE + "\n")
    settings = load_settings(None, ENVIRON, {})
    assert settings.redis.url == "redis://cache.example:6380/3"
    assert settings.aws.region == "us-east-1"
    assert settings.original.mapping_prefix == "__meta_record__"
    assert settings.original.function_cfg_file == "functionCfg"
    assert routes_of(settings, {}) == (expected_route(),)


def test_our_examples_of_its_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's two files that we ship work together."""
    monkeypatch.chdir(EXAMPLES)
    lines = (EXAMPLES / "original.env").read_text().splitlines()
    settings = load_settings(None, dict(line.split("=", 1) for line in lines), {})
    assert settings.redis.url == "redis://127.0.0.1:6379/0"
    assert routes_of(settings, {}) == (expected_route(KEY, ARN, "*", "hset"),)


def test_environment_alone(here: Path) -> None:
    """Without a functionCfg the mappings are those in Redis; there may be none yet."""
    settings = load({"REDIS_MASTER_HOST": "::1", **{k: v for k, v in ENVIRON.items() if k[0] in "MA"}})
    assert settings.redis.url == "redis://[::1]:6379/0"
    assert settings.original.function_cfg_file == ""
    assert settings.original.supported_commands == ("hset",)
    assert routes_of(settings, {}) == ()


def test_file_without_its_environment(here: Path) -> None:
    """A functionCfg in the working directory means nothing by itself; named in the settings, it counts."""
    (here / "functionCfg").write_text(LINE)
    environ = {"AWS_REGION": "us-east-1", "SUPPORTED_COMMANDS": "nonsense", "REDIS_SUB_CHANNEL": "nonsense"}
    assert "no routes are configured" in problem(environ)
    settings = load(environ, "[original]\nfunction_cfg_file = 'functionCfg'\n")
    assert settings.original.mapping_prefix == "__meta_record__"
    assert [route.name for route in routes_of(settings, {})] == [KEY]


def test_our_settings_count_more(here: Path) -> None:
    """What is said in our way counts more than the original's variables; these count more than the file."""
    text = "[redis]\nurl = 'redis://file'\n[original]\nsupported_commands = ['set']\n"
    assert load(ENVIRON, text).redis.url == "redis://cache.example:6380/3"
    assert load(ENVIRON, text).original.supported_commands == ("hset", "del")
    assert load({**ENVIRON, "REDIS_URL": "redis://plain"}).redis.url == "redis://plain"
    assert load({**ENVIRON, "ENGINE_REDIS_URL": "redis://ours"}).redis.url == "redis://ours"
    assert load(ENVIRON, "", {"redis.url": "redis://flag"}).redis.url == "redis://flag"
    named = {**ENVIRON, "ENGINE_ORIGINAL_MAPPING_PREFIX": "map:", "ENGINE_ORIGINAL_SUPPORTED_COMMANDS": "set"}
    assert load(named).original.mapping_prefix == "map:"
    assert load(named).original.supported_commands == ("set",)


@pytest.mark.parametrize(
    ("channel", "database"),
    [
        ("__keyevent@0__:*", 0),
        ("__keyspace@12__:*", 12),
        ("", 0),
        (" __keyevent@1__:* ", 1),
        ("__key*__:*", 0),
        ("__key*@2__:*", 2),
        ("__keyevent@*__:*", 0),
    ],
)
def test_channel(here: Path, channel: str, database: int) -> None:
    """Of the channel, the number of the database counts; the published sample names none."""
    assert load({**ENVIRON, "REDIS_SUB_CHANNEL": channel}).redis.url.endswith(f"/{database}")


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("REDIS_SUB_CHANNEL", "__keyevent@0__:hset", "SUPPORTED_COMMANDS"),
        ("REDIS_SUB_CHANNEL", "news", "__keyevent@0__:*"),
        ("REDIS_MASTER_PORT", "redis", "1 to 65535"),
        ("REDIS_MASTER_PORT", "70000", "1 to 65535"),
        ("REDIS_MASTER_PORT", "tcp://10.0.0.1:6379", "Kubernetes"),
        ("SUPPORTED_COMMANDS", "hset,hste", "did you mean 'hset'"),
        ("SUPPORTED_COMMANDS", "hmset", "published as 'hset'"),
        ("SUPPORTED_COMMANDS", " , ", "list the events"),
    ],
)
def test_wrong_variables(here: Path, name: str, value: str, hint: str) -> None:
    """A variable of the original that can't be right is told by its name, with what it should be."""
    said = problem({**ENVIRON, name: value})
    assert said.startswith(f"environment: {name}: ")
    assert hint in said


def test_commands_that_are_no_events(here: Path) -> None:
    """A command published under another name matched nothing in the original, and matches nothing here."""
    assert load({**ENVIRON, "SUPPORTED_COMMANDS": "hset, hmset,mset, del"}).original.supported_commands == (
        "hset",
        "del",
    )


def test_lines() -> None:
    """Blanks mean nothing, anywhere; empty lines and comments are skipped; a later line of a key adds to it."""
    lines = [
        "",
        "# ours",
        "  __meta_record__A  |  name ,A,  pattern,a : ,lambda,f  ",
        "__meta_record__B|pattern,b,lambda,g,",
        "__meta_record__A|lambda,h",
    ]
    mappings, problems = parse_function_cfg(lines, "functionCfg", "__meta_record__")
    assert problems == []
    assert mappings["__meta_record__A"].fields == {"name": "A", "pattern": "a:", "lambda": "h"}
    assert mappings["__meta_record__B"].fields == {"pattern": "b", "lambda": "g"}
    assert mappings["__meta_record__B"].place == "functionCfg:4"


def test_wrong_lines(here: Path) -> None:
    """Every wrong line is told with file and line, all at once."""
    lines = [
        LINE,
        "no bar here",
        "|pattern,*,lambda,f",
        "__meta_record__x|pattern,*,lambda",
        "other|pattern,*,lambda,f",
        "__meta_record__y|patern,*,lambda,f",
        "__meta_record__z|pattern,*,lambda,not/a/function",
    ]
    (here / "functionCfg").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load(ENVIRON)
    said = [str(found) for found in caught.value.problems]
    for start, word in (
        ("functionCfg:2: ", "has no key before a |"),
        ("functionCfg:3: ", "has no key before a |"),
        ("functionCfg:4: ", "a field without a value"),
        ("functionCfg:5: ", "does not begin with '__meta_record__'"),
        ("functionCfg:6: pattern: ", "did you mean patern?"),
        ("functionCfg:7: lambda: ", "not a function's name or ARN"),
    ):
        assert any(line.startswith(start) and word in line for line in said), (start, said)
    assert len(said) == 6


def test_unreadable_file(here: Path) -> None:
    """A functionCfg that was asked for and can't be read is a problem; so is one that is not text."""
    assert "missing: can't be read: No such file" in problem(
        {**ENVIRON, "ENGINE_ORIGINAL_FUNCTION_CFG_FILE": "missing"}
    )
    (here / "functionCfg").write_bytes(b"\xff\xfe")
    assert "functionCfg: is not UTF-8" in problem(ENVIRON)


def test_hash_takes_the_place_of_a_line(here: Path) -> None:
    """A hash in Redis counts instead of the line of its key; others stay, and the file's routes too."""
    (here / "functionCfg").write_text(f"{LINE}\n__meta_record__B|pattern,b,lambda,g\n")
    settings = load(ENVIRON, '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n')
    hashes = {KEY: {"pattern": "person", "lambda": "other"}, "__meta_record__C": {"pattern": "*", "lambda": "f"}}
    assert routes_of(settings, hashes) == (
        RouteSettings("carts", "dynamodb"),
        expected_route(KEY, "other", "person*"),
        expected_route("__meta_record__B", "g", "b*"),
        expected_route("__meta_record__C", "f", "*"),
    )


def test_pattern_is_a_literal_prefix(here: Path) -> None:
    """A mapping's pattern is the beginning of keys, letter for letter, but for * alone."""
    hashes = {"__meta_record__A": {"pattern": "a*[b]?\\", "lambda": "f"}}
    (entry,) = [
        routes
        for event, routes in RouteTable.build(routes_of(load(ENVIRON), hashes)).compile().items()
        if event == b"hset"
    ]
    assert entry.mask(b"a*[b]?\\") and entry.mask(b"a*[b]?\\more")
    assert not entry.mask(b"axb?") and not entry.mask(b"a*b?\\") and not entry.mask(b"xa*[b]?\\")


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"pattern": "*"}, "lambda", "is missing"),
        ({"lambda": "f", "name": "x"}, "pattern", "is missing"),
        ({}, "lambda", "is missing"),
        ({"pattern": "*", "lambda": "a b"}, "lambda", "not a function's name"),
        ({"pattern": "\udcff", "lambda": "f"}, "pattern", "not UTF-8"),
        ({"pattern": "*", "lambda": ARN.replace("us-east-1", "eu-west-1")}, "lambda", "engine calls us-east-1"),
    ],
)
def test_wrong_hashes(here: Path, fields: dict[str, str], field: str, word: str) -> None:
    """A mapping hash that is no mapping is told by its key and field."""
    with pytest.raises(ConfigError) as caught:
        routes_of(load(ENVIRON), {"__meta_record__A": fields})
    places = {found.place: found.message for found in caught.value.problems}
    assert word in places[f"mapping hash '__meta_record__A': {field}"]


def test_all_routes_together(here: Path) -> None:
    """A mapping may not have the name of a route, nor may there be more than there are slots."""
    settings = load(ENVIRON, ROUTE)
    with pytest.raises(ConfigError, match="has the name of another route"):
        routes_of(settings, {KEY: {"pattern": "*", "lambda": "f"}})
    hashes = {f"__meta_record__{n}": {"pattern": "*", "lambda": "f"} for n in range(63)}
    with pytest.raises(ConfigError, match="64 routes are configured, and at most 63"):
        routes_of(settings, hashes)
    (here / "functionCfg").write_text(LINE)
    assert "has the name of another route" in problem(ENVIRON, ROUTE)
