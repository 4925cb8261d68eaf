"""Keys and functions that fail for long, on a real engine: nobody else waits for them, and their end is noticed."""

from __future__ import annotations

from pathlib import Path

from engine.sandbox.functions.spec import FunctionSpec
from tests.support import PathUnderTest, wait_for, whole_path

ROUTE = '[[routes]]\nname = "all"\nfunction = "{}"\nevents = ["*", "del"]\n'


def function(name: str, marker: Path | None = None, **environment: str) -> FunctionSpec:
    healed = {"HEALED": str(marker)} if marker else {}
    return FunctionSpec(name, f"tests.functions:{name}", environment={**healed, **environment})


def configure(path: PathUnderTest, route: str, **delivery: object) -> None:
    path.write_config(route, shards=1, invokers=1)
    extra = "".join(f"{name} = {value}\n" for name, value in delivery.items())
    text = path.config.read_text()
    if "retry_backoff_ms_max" in delivery:
        text = text.replace("retry_backoff_ms_max = 500\n", "")
    path.config.write_text(text.replace("[delivery]\n", f"[delivery]\n{extra}"))


def delivered(path: PathUnderTest, *keys: str) -> bool:
    held = path.last()
    return all(key.encode() in held for key in keys)


def test_records_that_a_slow_function_refuses_for_ever_delay_no_other(tmp_path: Path) -> None:
    """Four keys fail after 1.8 s each, over and over, in both slots: keys that change meanwhile are delivered."""
    with whole_path(tmp_path, functions=[function("picky", SLOW_S="1.8")]) as path:
        configure(path, ROUTE.format("picky") + "batch_size = 1\n", set_aside_attempts=1_000_000)
        path.start()
        for number in range(4):
            path.client.hset(f"poison:{number}", "n", 1)
        wait_for(lambda: path.totals()["invocations_failed"] >= 4, "failures of each of them")
        others = [f"good:{number}" for number in range(4)]
        for key in others:
            path.client.hset(key, "n", 1)
        wait_for(lambda: delivered(path, *others), "the keys that are well")


def test_a_drain_ends_where_every_record_is_named_as_failed(tmp_path: Path) -> None:
    """A function that settles nothing is in trouble, whatever words it has for it: its keys wait on disk."""
    marker = tmp_path / "healed"
    with whole_path(tmp_path, functions=[function("refusing", marker)]) as path:
        configure(path, ROUTE.format("refusing"), set_aside_attempts=1_000_000)
        path.start()
        for number in range(50):
            path.client.hset(f"key:{number}", "n", number)
        wait_for(lambda: path.totals()["invocations_failed"] >= 2, "failures")
        assert path.stop() == 0, path.log()
        marker.write_text("yes")
        path.start()
        wait_for(lambda: path.totals()["records_delivered"] >= 50, "all of them")
        assert path.stop() == 0


def test_a_key_that_can_never_be_stored_holds_nothing_up(tmp_path: Path) -> None:
    """It waits on disk with its reason: watermark and drain are the others'; its newer value is tried at once."""
    marker = tmp_path / "healed"
    with whole_path(tmp_path, functions=[function("picky", marker)]) as path:
        configure(path, ROUTE.format("picky"), set_aside_attempts=3)
        path.environment["ENGINE_LOG_KEYS"] = "true"
        path.start()
        path.client.hset("good", "n", 1)
        path.client.hset("poison", "n", 1)
        # What else is delivered shows that it is not the function.
        wait_for(lambda: path.client.hincrby("good", "n", 1) and path.totals()["keys_set_aside"] == 1, "set aside")
        moment_ms = path.status()["updated_at_ms"]
        wait_for(lambda: path.status()["settled_until_ms"] > moment_ms, "a watermark after it")
        wait_for(lambda: path.totals()["keys_in_flight"] == 0, "only on disk")
        assert "'poison'" in path.log()
        assert path.stop() == 0, path.log()
        path.start()
        assert path.totals()["keys_set_aside"] == 1
        marker.write_text("yes")
        path.client.hset("poison", "n", 2)
        wait_for(lambda: path.last().get(b"poison") == {"n": "2"}, "its newer value")
        wait_for(lambda: path.totals()["keys_set_aside"] == 0, "nothing set aside")
        assert path.stop() == 0


def test_a_batch_that_keeps_failing_frees_those_who_are_well(tmp_path: Path) -> None:
    """A function that raises for a whole batch, for ever, gets it in halves once others were delivered."""
    with whole_path(tmp_path, functions=[function("heavy")]) as path:
        configure(path, ROUTE.format("heavy"), set_aside_attempts=3)
        path.start()
        pipe = path.client.pipeline(transaction=True)
        for key in ("one", "poison", "two", "three"):
            pipe.hset(key, "n", 1)
        pipe.execute()
        wait_for(lambda: path.totals()["invocations_failed"] >= 1, "a failure")
        wait_for(
            lambda: path.client.hincrby("good", "n", 1) and path.totals()["records_delivered"] >= 4, "the three others"
        )
        wait_for(lambda: path.client.hincrby("good", "n", 1) and path.totals()["keys_set_aside"] == 1, "the one aside")
        assert path.stop() == 0


def test_a_function_that_is_well_again_is_noticed_though_all_keys_wait(tmp_path: Path) -> None:
    """Where every key waits for ten minutes after a failure, one small batch asks whether the function is well."""
    marker = tmp_path / "healed"
    with whole_path(tmp_path, functions=[function("gate", marker)]) as path:
        configure(path, ROUTE.format("gate"), retry_backoff_ms_min=600_000, retry_backoff_ms_max=600_000)
        path.start()
        for number in range(30):
            path.client.hset(f"key:{number}", "n", number)
        wait_for(lambda: path.totals()["invocations_failed"] >= 2, "an outage")
        marker.write_text("yes")
        wait_for(lambda: path.totals()["records_delivered"] >= 30, "all of them")
        assert path.stop() == 0


def test_a_value_that_the_server_would_not_send_is_delivered_once_it_does(tmp_path: Path) -> None:
    """A key past the server's limit of a connection is set aside with its reason, and holds up nothing; once the limit
    is raised, it arrives without anybody's help.
    """
    limit = {"client-output-buffer-limit": "normal 1mb 0 0"}
    with whole_path(tmp_path, server_config=limit) as path:
        configure(path, ROUTE.format("accept"), retry_backoff_ms_max=500, set_aside_backoff_ms_max=1_000)
        path.start()
        path.client.rpush("big", *("y" * 200_000 for _ in range(20)))
        wait_for(lambda: path.client.hincrby("good", "n", 1) and path.totals()["keys_set_aside"] == 1, "set aside")
        assert "client-output-buffer-limit normal" in path.log()
        moment_ms = path.status()["updated_at_ms"]
        wait_for(lambda: path.status()["settled_until_ms"] > moment_ms, "a watermark after it")
        path.client.config_set("client-output-buffer-limit", "normal 0 0 0")
        wait_for(lambda: b"big" in path.last(), "the value that was too large")
        assert path.totals()["dead_letters"] == 0
        assert path.stop() == 0
