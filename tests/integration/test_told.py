"""What the engine says of itself that a user needs in order to act."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import orjson

from engine.sandbox.functions.runtime import FunctionSpec
from tests.support import wait_for, whole_path

ROUTE = '[[routes]]\nname = "carts"\nfunction = "{function}"\nevents = {events}\n'


def test_a_start_a_reload_a_failure_and_a_drain_say_what_matters(tmp_path: Path) -> None:
    """What a route will not see is said by check and start; that shards take a restart, by a reload; why items failed,
    and a few of their keys, by a failure; what waits on disk, by the end.
    """
    functions = [
        FunctionSpec("refuse", "tests.functions:refuse_with_reason"),
        FunctionSpec("broken", "tests.functions:broken"),
    ]
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(ROUTE.format(function="refuse", events='["hset"]'), shards=1)
        path.client.config_set("maxmemory", "200mb")
        path.client.config_set("maxmemory-policy", "allkeys-lru")
        checked = subprocess.run(
            [sys.executable, "-m", "engine", "check", "--json", "--config", str(path.config)],
            env=path.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        notes = [one for one in orjson.loads(checked.stdout)["findings"] if one["place"] == "route 'carts'"]
        assert ["hincrby" in notes[0]["message"], "evictions (allkeys-lru)" in notes[1]["message"]] == [True, True]
        path.environment |= {"ENGINE_LOG_KEYS": "true", "ENGINE_LOG_FUNCTION_ERRORS": "true"}
        path.start()
        assert path.engine is not None
        assert "will not see" in path.log() and "hincrby" in path.log()
        for number in range(50):
            path.client.hset(f"cart:{number}", "n", 1)
        wait_for(lambda: "no such shelf (" in path.log(), "the items' reason")
        failed = next(line for line in path.log().splitlines() if "invocation_failed" in line)
        assert "such_as=['cart:" in failed and failed.count("cart:") <= 3, failed
        assert "no such shelf (" in failed

        path.write_config(ROUTE.format(function="refuse", events='["hset"]'), shards=2)
        path.engine.send_signal(signal.SIGHUP)
        wait_for(lambda: "needs_a_restart" in path.log() and "capture.shards" in path.log(), "it says so")
        wait_for(lambda: "routes_unchanged" in path.log(), "the reload")
        assert path.log().count("will not see hdel") == 1
        path.write_config(ROUTE.format(function="broken", events='["changes"]'), shards=1)
        path.engine.send_signal(signal.SIGHUP)
        wait_for(lambda: "routes_in_force" in path.log() and "is broken" in path.log(), "the new routes")
        assert path.stop() == 0
        assert "keys_in_backlog=50" in path.log()


def test_a_value_that_a_function_quotes_is_in_no_log(tmp_path: Path) -> None:
    """A log names the type of a function's error; its words are in the status and in the dead letter, and print."""
    with whole_path(tmp_path, functions=[FunctionSpec("quoting", "tests.functions:quoting")]) as path:
        path.write_config(ROUTE.format(function="quoting", events='["hset"]') + "maximum_retry_attempts = 1\n")
        path.start()
        path.client.hset("cart:7", "card", "4929-1234")
        wait_for(lambda: path.totals()["dead_letters"] == 1, "a dead letter")
        error = wait_for(lambda: path.status()["routes"][0]["error"], "the route's last error")
        assert path.stop() == 0
    (letter,) = map(orjson.loads, (tmp_path / "dead_letters.jsonl").read_bytes().splitlines())
    for text in (letter["reason"], error):
        assert "ValueError: cannot use \\x1b[31m" in text and "4929-1234" in text and text.isprintable()
    assert "dead_letter" in path.log() and "ValueError" in path.log()
    assert "4929-1234" not in path.log() and "cannot use" not in path.log()
