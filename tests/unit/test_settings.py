from __future__ import annotations

import pprint
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import rich.pretty
from msgspec.structs import fields

from engine.config import RedisSettings, RouteSettings, Settings
from engine.errors import ConfigError, Problem
from engine.settings.checks import LIMITS
from engine.settings.draft import KEYS, SECTIONS
from engine.settings.file import load_settings
from engine.settings.route_checks import check_route

DOCUMENTED = Path(__file__).parents[2] / "config" / "engine.toml"
ROUTE = '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'
REGION = {"AWS_REGION": "us-east-1"}


def write(folder: Path, text: str) -> str:
    file = folder / "engine.toml"
    file.write_text(text)
    return str(file)


def load(
    folder: Path, text: str = ROUTE, environ: Mapping[str, str] = {}, flags: Mapping[str, object] = {}
) -> Settings:
    return load_settings(write(folder, text), {**REGION, **environ}, flags)


def problems(
    folder: Path, text: str = ROUTE, environ: Mapping[str, str] = {}, flags: Mapping[str, object] = {}
) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ, flags)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def only_problem(
    folder: Path, text: str = ROUTE, environ: Mapping[str, str] = {}, flags: Mapping[str, object] = {}
) -> Problem:
    found = problems(folder, text, environ, flags)
    assert len(found) == 1, found
    return found[0]


def test_documented_defaults() -> None:
    """The documented file says exactly the defaults, and its route no more than a name and a function."""
    settings = load_settings(str(DOCUMENTED), {}, {"aws.region": "us-east-1"})
    delivery = msgspec.structs.replace(settings.delivery, backlog_folder="", dead_letter_file="")
    places = {"state_folder": "", "status_file": "", "checkpoint_file": ""}
    supervision = msgspec.structs.replace(settings.supervision, **places)
    settings = msgspec.structs.replace(settings, delivery=delivery, supervision=supervision)
    defaults = msgspec.structs.replace(Settings(), aws=settings.aws, routes=(RouteSettings("carts", "dynamodb"),))
    assert settings == defaults


def test_every_key_is_documented() -> None:
    """The documented file holds every key there is, in its section, with a comment before it or its like."""
    document = tomllib.loads(DOCUMENTED.read_text())
    for section, struct in SECTIONS.items():
        assert list(document[section]) == [field.name for field in fields(struct)]
    assert list(document["routes"][0]) == [field.name for field in fields(RouteSettings)]
    for paragraph in re.split(r"\n\s*\n", DOCUMENTED.read_text()):
        assert paragraph.lstrip().startswith("#") or re.fullmatch(r"\s*\[\w+\]\s*", paragraph), paragraph


def test_layers(tmp_path: Path) -> None:
    """Flags count more than the environment, the environment more than the file, the file more than defaults."""
    text = "[capture]\nshards = 3\nsample_keys_max = 7\ndirty_keys_max = 70\n" + ROUTE
    environ = {"ENGINE_CAPTURE_SHARDS": "4", "ENGINE_CAPTURE_SAMPLE_KEYS_MAX": "8"}
    capture = load(tmp_path, text, environ, {"capture.shards": 5, "delivery.invokers": None}).capture
    assert (capture.shards, capture.sample_keys_max, capture.dirty_keys_max) == (5, 8, 70)
    assert capture.read_bytes_max == Settings().capture.read_bytes_max


def test_environment_of_every_type(tmp_path: Path) -> None:
    """Numbers, truth values, words and lists can all be said as text."""
    settings = load(
        tmp_path,
        environ={
            "ENGINE_RING_RING_BYTES": "16_777_216",
            "ENGINE_REDIS_TLS_VERIFY": "off",
            "ENGINE_REDIS_SET_NOTIFICATIONS": "False",
            "ENGINE_SUPERVISION_DRAIN_TIMEOUT_S": "2.5",
            "ENGINE_LOG_FORMAT": "json",
            "ENGINE_ORIGINAL_SUPPORTED_COMMANDS": "hset, set",
        },
    )
    assert settings.ring.ring_bytes == 16_777_216
    assert (settings.redis.tls_verify, settings.redis.set_notifications) == (False, False)
    assert settings.supervision.drain_timeout_s == 2.5
    assert settings.log.format == "json"
    assert settings.original.supported_commands == ("hset", "set")


WRONG = """
        shards = 3
        [capture]
        shard = 2
        read_bytes_max = "much"
        [rings]
        [ring]
        ring_bytes = 3_000_000
        [[routes]]
        name = "carts"
        function = "not a function"
        evnts = ["hset"]
        batch_size = 0
        [[routes]]
        name = "carts"
        function = "dynamodb"
        events = ["hmset", "hste"]
        [[routes]]
        keys = "cart:*"
"""


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Whatever is wrong, in whichever layer, is said in one go, each with its place and a remedy."""
    environ = {"ENGINE_CAPTURE_SHARD": "1", "ENGINE_LOG_LEVEL": "loud", "ENGINE_ROUTES_CARTS": "x"}
    found = problems(tmp_path, WRONG, environ, {"capture.shards": 0, "capture.shrads": 3})
    file = str(tmp_path / "engine.toml")
    said = {problem.place.replace(file, "FILE"): f"{problem.message} | {problem.hint}" for problem in found}
    expected = {
        "FILE: shards": r"unknown section \| did you mean capture.shards\?",
        "FILE: capture.shard": r"unknown setting \| did you mean shards\?",
        "FILE: capture.read_bytes_max": "must be a whole number, not 'much'",
        "FILE: rings": r"did you mean ring\?",
        "FILE: ring.ring_bytes": r"power of two|fewer than 4 frames",
        'FILE: routes[0] "carts": function': r"not a function's name or ARN \| .*arn:aws:lambda",
        'FILE: routes[0] "carts": evnts': r"did you mean events\?",
        'FILE: routes[0] "carts": batch_size': r"is 0 \| allowed: 1 to 10000",
        'FILE: routes[1] "carts"': r'name of another route .*routes\[0\] "carts"',
        'FILE: routes[1] "carts": events': "",
        "FILE: routes[2]": "has no (name|function)",
        "FILE: routes[2]: keys": "must be a list of strings",
        "environment: ENGINE_CAPTURE_SHARD": r"did you mean ENGINE_CAPTURE_SHARDS\?",
        "environment: ENGINE_LOG_LEVEL": "one of 'debug', 'info', 'warning', 'error', not 'loud'",
        "environment: ENGINE_ROUTES_CARTS": r"routes come from the file",
        "--shards": r"is 0 \| allowed: 1 to 64; .*0.25 µs",
        "--capture-shrads": r"did you mean shards\?",
    }
    assert set(said) == set(expected)
    for place, pattern in expected.items():
        assert re.search(pattern, said[place]), (place, said[place])
    events = [str(problem) for problem in found if problem.place.endswith("events")]
    assert "'hmset' is not an event" in events[0] and "published as 'hset'" in events[0]
    assert "'hste' is not an event" in events[1] and "did you mean 'hset'" in events[1]
    assert all("\n" not in str(problem) for problem in found)


def test_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    """A mistake in the file's syntax is told with file, line and column, and nothing else is."""
    problem = only_problem(tmp_path, "[capture]\nshards = two\n")
    assert problem.place == f"{tmp_path}/engine.toml:2:10"
    assert "not valid TOML" in problem.message
    assert only_problem(tmp_path, 'a = "\n').place == f"{tmp_path}/engine.toml:1:6"
    assert only_problem(tmp_path, "a = [\n1,").place == f"{tmp_path}/engine.toml:2:3"


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is not there, is a folder, or is not text is one problem with the path in it."""
    for path, word in ((tmp_path / "missing.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigError) as caught:
            load_settings(str(path), REGION, {})
        assert [problem.place for problem in caught.value.problems] == [str(path)]
        assert word in str(caught.value)
    (tmp_path / "latin.toml").write_bytes(b"# fine\nname = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"latin\.toml:2: is not UTF-8"):
        load_settings(str(tmp_path / "latin.toml"), REGION, {})


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_limits(tmp_path: Path, key: str) -> None:
    """Each number is refused just past its limits, with the limits in the message."""
    low, high, _ = LIMITS[key]
    for value in (low - 1, high + 1):
        found = problems(tmp_path, flags={key: value})
        assert any(f"is {value}" in str(problem) and f"{low} to {high}" in str(problem) for problem in found)


def test_every_number_has_limits() -> None:
    """No number among the settings is left without limits, and each default keeps to its own."""
    assert {key for key, kind in KEYS.items() if kind in {int, float} or key == "capture.shards"} == set(LIMITS)
    defaults = msgspec.to_builtins(Settings())
    for key, limits in LIMITS.items():
        section, name = key.split(".")
        assert limits.low <= defaults[section][name] <= limits.high


def test_not_a_number(tmp_path: Path) -> None:
    """TOML's nan is no number of seconds."""
    assert "is nan" in only_problem(tmp_path, "[supervision]\ndrain_timeout_s = nan\n" + ROUTE).message


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[ring]\nring_bytes = 12_582_912\n", "ring.ring_bytes", "not a power of two"),
        ("[ring]\nring_bytes = 4_194_304\n", "ring.ring_bytes", "fewer than 4 frames"),
        ("[ring]\nframe_bytes_max = 2_500_000\n", "ring.frame_bytes_max", "fewer than 4 frames"),
        ("[ring]\nframe_bytes_max = 1_572_900\n", "ring.frame_bytes_max", "does not fit a frame"),
        ("[capture]\nkey_bytes_max = 2_097_152\n", "capture.key_bytes_max", "does not fit a frame"),
        ("[delivery]\nretry_backoff_ms_min = 40_000\n", "delivery.retry_backoff_ms_min", "is more than"),
        ("[supervision]\nrestart_backoff_ms_max = 99\n", "supervision.restart_backoff_ms_max", "is more than"),
        ("[redis]\ntls_ca_file = 'ca.pem'\n", "redis.tls_ca_file", "does not ask for TLS"),
        ("[redis]\ntls_key_file = 'key.pem'\n", "redis.tls_key_file", "without a certificate"),
        ("[aws]\nlambda_endpoint_url = '127.0.0.1:9001'\n", "aws.lambda_endpoint_url", "not the address"),
        ("[aws]\nregion = 'us east'\n", "aws.region", "not a region"),
        ("[log]\nlevel = 'loud'\n", "log.level", "must be one of"),
        ("[delivery]\ndead_letter_file = ' '\n", "delivery.dead_letter_file", "is empty"),
    ],
)
def test_relations(tmp_path: Path, text: str, place: str, message: str) -> None:
    """What does not fit together is told where the user set it."""
    problem = only_problem(tmp_path, text + ROUTE)
    assert problem.place == f"{tmp_path}/engine.toml: {place}"
    assert message in problem.message


def test_shared_memory_is_bounded(tmp_path: Path) -> None:
    """Shards, invokers and ring size that are each allowed may not together ask for absurd memory."""
    flags = {"capture.shards": 64, "delivery.invokers": 64, "ring.ring_bytes": 1 << 30}
    assert "bytes of shared memory" in only_problem(tmp_path, flags=flags).message


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("batch_size", ["0", "10_001", "1.0", "true"]),
        ("maximum_batching_window_in_seconds", ["-0.1", "300.5", "nan", "'1'"]),
        ("parallelization_factor", ["0", "11"]),
        ("maximum_retry_attempts", ["-2", "10_001"]),
        ("maximum_record_age_in_seconds", ["0", "59", "604_801", "-2"]),
        ("function_response_types", ["['ReportItems']", "'ReportBatchItemFailures'"]),
        ("payload", ["'single'"]),
        ("keys", ["[]", "[1]", "['" + "a" * 5_000 + "']", "['cart:[a-']", "['[a-]']", "['*', 'x[^']"]),
        ("events", ["[]", "['hgetall']", "['HSET']", "['" + "j.on" * 100 + "']"]),
    ],
)
def test_route_limits(tmp_path: Path, option: str, wrong: list[str]) -> None:
    """An option of a route outside of what it may be is told with the route's name."""
    for value in wrong:
        problem = only_problem(tmp_path, f"{ROUTE}{option} = {value}\n")
        assert problem.place == f'{tmp_path}/engine.toml: routes[0] "carts": {option}', value


@pytest.mark.parametrize(
    "function",
    [
        "dynamodb",
        "dynamodb:live",
        "dynamodb:$LATEST",
        "123456789012:function:dynamodb",
        "arn:aws:lambda:us-east-1:123456789012:function:dynamodb",
        "arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:dynamodb:7",
        "arn:aws-cn:lambda:cn-north-1:123456789012:function:dynamodb:$LATEST",
    ],
)
def test_functions(tmp_path: Path, function: str) -> None:
    """A function may be named in every way that Lambda takes."""
    text = f'[[routes]]\nname = "carts"\nfunction = "{function}"\n'
    region = re.search(r":lambda:([^:]+)", function)
    settings = load(tmp_path, text, {"AWS_REGION": region[1] if region else "us-east-1"})
    assert settings.routes[0].function == function


@pytest.mark.parametrize(
    "function",
    ["", "a b", "x" * 65, "arn:aws:sns:us-east-1:123456789012:topic", "12345:function:x", "a:b:c", "dynamodb\\n"],
)
def test_no_functions(tmp_path: Path, function: str) -> None:
    """What is no function's name is refused with the forms that there are."""
    problem = only_problem(tmp_path, f'[[routes]]\nname = "carts"\nfunction = "{function}"\n')
    assert problem.place.endswith(": function")
    assert "arn:aws:lambda:" in problem.hint


def test_number_of_routes(tmp_path: Path) -> None:
    """No route at all, and more than there are slots, are refused; as many as there are slots is fine."""

    def text(count: int) -> str:
        return "".join(f'[[routes]]\nname = "r{n}"\nfunction = "f"\n' for n in range(count))

    assert "[[routes]]" in only_problem(tmp_path, "").hint
    assert len(load(tmp_path, text(63)).routes) == 63
    assert "64 routes are configured, and at most 63" in only_problem(tmp_path, text(64)).message
    assert "must be tables" in only_problem(tmp_path, "routes = 3\n").message


def test_no_routes_but_mappings(tmp_path: Path) -> None:
    """Where mapping hashes are in use, the file needs no route."""
    assert load(tmp_path, "[original]\nmapping_prefix = 'map:'\n").routes == ()


def test_region(tmp_path: Path) -> None:
    """The region is ours, else AWS's variables', else the functions'; without one, or with two, that is said."""
    arn = "[[routes]]\nname = '{0}'\nfunction = 'arn:aws:lambda:{0}:123456789012:function:f'\n"

    def region(text: str, environ: Mapping[str, str]) -> str:
        return load_settings(write(tmp_path, text), environ, {}).aws.region

    both = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-west-2"}
    assert region("[aws]\nregion = 'us-east-2'\n" + ROUTE, both) == "us-east-2"
    assert region(ROUTE, both) == "eu-west-1"
    assert region(ROUTE, {"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-west-2"}) == "us-west-2"
    assert region(arn.format("eu-north-1") + ROUTE, {}) == "eu-north-1"
    with pytest.raises(ConfigError, match=r"aws\.region: no region is configured \(set AWS_REGION"):
        region(ROUTE, {})
    with pytest.raises(ConfigError, match="several regions"):
        region(arn.format("eu-north-1") + arn.format("us-west-1"), {})
    with pytest.raises(ConfigError, match="is in eu-north-1, and the engine calls eu-west-1"):
        region(arn.format("eu-north-1"), both)
    local = {"AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:9001"}
    assert region(arn.format("eu-north-1"), both | local) == "eu-west-1"


def test_endpoint(tmp_path: Path) -> None:
    """The endpoint of Lambda is ours, else that of AWS's own variables, the one for Lambda first."""
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:2"}
    ours = "[aws]\nlambda_endpoint_url = 'http://127.0.0.1:3'\n" + ROUTE
    assert load(tmp_path, ours, environ).aws.lambda_endpoint_url == "http://127.0.0.1:3"
    assert load(tmp_path, ROUTE, environ).aws.lambda_endpoint_url == "http://127.0.0.1:2"
    del environ["AWS_ENDPOINT_URL_LAMBDA"]
    assert load(tmp_path, ROUTE, environ).aws.lambda_endpoint_url == "http://127.0.0.1:1"


def test_kubernetes_variables_are_not_ours(tmp_path: Path) -> None:
    """What Kubernetes sets for a service named engine is no mistake of the user's."""
    names = "SERVICE_HOST SERVICE_PORT SERVICE_PORT_HTTP PORT PORT_80_TCP PORT_80_TCP_ADDR CONSOLE_SERVICE_HOST"
    assert load(tmp_path, environ={f"ENGINE_{name}": "tcp://10.0.0.1:80" for name in names.split()}).routes


def test_representations_hide_secrets() -> None:
    """No way to show the settings shows a password, in its field or in a URL."""
    redis = RedisSettings(url="redis://:hunter2@db/0", username="app", password="hunter2")
    settings = Settings(redis=redis)
    for shown in (repr(redis), str(redis), f"{settings}", pprint.pformat(settings), rich.pretty.pretty_repr(settings)):
        assert "hunter2" not in shown
        assert "app" in shown
    assert "password=''" in repr(RedisSettings())


def test_the_originals_payload_has_no_place_for_expiry() -> None:
    """`include_expiry` with the original's payload is a problem that is told, not a field that is missing."""
    (problem,) = check_route("routes[0]", RouteSettings("r", "f", payload="original", include_expiry=True))
    assert "include_expiry" in problem.place
    assert check_route("routes[0]", RouteSettings("r", "f", include_expiry=True)) == []


def test_shards_may_be_left_to_the_engine(tmp_path: Path) -> None:
    """A number or "auto", from the file, the environment or a flag; anything else is told with what it may be."""
    auto = '[capture]\nshards = "auto"\n' + ROUTE
    assert load(tmp_path, auto).capture.shards == "auto"
    assert load(tmp_path, auto, {"ENGINE_CAPTURE_SHARDS": "3"}).capture.shards == 3
    assert load(tmp_path, ROUTE, {"ENGINE_CAPTURE_SHARDS": "auto"}).capture.shards == "auto"
    assert load(tmp_path, auto, flags={"capture.shards": "4"}).capture.shards == 4
    wrong = only_problem(tmp_path, ROUTE, flags={"capture.shards": "many"})
    assert (wrong.place, wrong.message) == ("--shards", "must be a whole number or 'auto', not 'many'")
    assert "'auto'" in only_problem(tmp_path, "[capture]\nshards = 1.5\n" + ROUTE).message
