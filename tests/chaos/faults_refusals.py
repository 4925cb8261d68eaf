"""Refusals: records that a function never takes, values that no store takes, servers that refuse for a while."""

from __future__ import annotations

import os
import signal

from engine.sandbox.functions.runtime import FunctionSpec
from tests.chaos.faults_server import holds
from tests.chaos.handlers import REFUSED
from tests.chaos.registry import fault
from tests.chaos.rig import Run

TOO_LARGE_CHARS = 500_000
MEGABYTE = 1 << 20
HIDDEN_CONFIG = "HIDDENCONFIG"


@fault(
    "function: four records that it refuses by name, slowly, for ever",
    functions=(FunctionSpec("dynamodb", "tests.chaos.handlers:refusing", timeout_s=3.5),),
    exempt=lambda key: key.startswith(REFUSED.encode()),
    wait_s=90.0,
)
def refused_for_ever(run: Run) -> str:
    """They fail alone, again and again, and delay no other key; a drain puts them on disk, and ends well."""
    before = run.engine.totals()["records_retried"]
    run.writer.write_now([("HSET", f"{REFUSED}:{number}", "n", number) for number in range(4)])
    run.wait(lambda: run.engine.totals()["records_retried"] > before + 4, "the function gives them back", 40.0)
    run.sleep(2.0)
    return f"{run.engine.totals()['records_retried'] - before} times given back"


@fault(
    "data: a value that can never be stored",
    exempt=lambda key: key.startswith(b"unstorable:"),
    wait_s=90.0,
)
def unstorable(run: Run) -> str:
    """It fails alone, at the default number of attempts, which is no limit; a drain and a start are the others'."""
    before = run.engine.totals()["records_retried"]
    run.writer.execute("HSET", "unstorable:0", "text", "x" * TOO_LARGE_CHARS)
    run.wait(lambda: run.engine.totals()["records_retried"] > before, "the function gives it back")
    run.sleep(1.0)
    pid, status = run.engine.pid, run.engine.stop()
    run.engine.start()
    return f"given back, drained with {status}, started again ({pid} → {run.engine.pid})" if status == 0 else ""


@fault("server: pipelines of large values are closed", wait_s=90.0)
def closed_pipelines(run: Run) -> str:
    """A limit on the output of normal clients ends every read of more than a few large values."""
    client = run.client()
    client.config_set("client-output-buffer-limit", f"normal {MEGABYTE} 0 0")
    keys = [f"large:{number:02d}" for number in range(30)]
    run.writer.write_now([("HSET", key, "text", key + "x" * 200_000) for key in keys])
    try:
        run.wait(lambda: "pipeline_closed" in run.engine.log(), "a read is closed by the server")
        run.wait(lambda: all(holds(run, key.encode(), key) for key in keys), "all are read in spite of the limit", 60.0)
    finally:
        # The oracle's reads are larger.
        client.config_set("client-output-buffer-limit", "normal 0 0 0")
    return f"{run.engine.log().count('pipeline_closed')} reads were closed"


@fault(
    "server: canaries are refused for seconds, and a subscription is lost meanwhile",
    server_config={"rename-command": f"CONFIG {HIDDEN_CONFIG}", "notify-keyspace-events": "KEA"},
    wait_s=90.0,
)
def canaries_refused(run: Run) -> str:
    """Where nobody may see the flags, canaries tell; a server out of memory refuses them, and takes them again."""
    client = run.client()
    run.writer.pause()
    client.execute_command(HIDDEN_CONFIG, "SET", "maxmemory", "1")
    run.wait(lambda: "canar" in run.engine.log(), "the engine tells that its canaries are refused", 30.0)
    client.execute_command(HIDDEN_CONFIG, "SET", "notify-keyspace-events", "")
    client.execute_command(HIDDEN_CONFIG, "SET", "maxmemory", "0")
    run.writer.write_now([run.writer.change(key) for key in run.writer.keys[::3]])
    run.sleep(1.0)
    client.execute_command(HIDDEN_CONFIG, "SET", "notify-keyspace-events", "KEA")
    run.writer.start()
    return "refused, told, and the flags were off for a second afterwards"


@fault("audit --repair, and kill -9 everything at once")
def repair_and_kill(run: Run) -> str:
    """What an audit has published is not lost with the engine that heard it, or did not hear it."""
    run.writer.pause()
    run.wait(lambda: not run.engine.totals()["keys_waiting"], "all is delivered")
    run.sleep(1.0)
    lost = run.rng.sample(sorted(run.items()), 20)
    for key in lost:
        run.forget(key)
    run.engine.command("audit", "--repair", well=(0, 1))  # 1: there were differences
    run.engine.kill_all()
    pid = run.engine.pid
    run.engine.start()
    run.writer.start()
    return f"{len(lost)} items removed, found and published; {pid} killed, {run.engine.pid} started"


@fault("SIGTERM to every process of the engine at once")
def terminate_group(run: Run) -> str:
    """As ``timeout``, a closed terminal or a container's init does it: the drain is the supervisor's."""
    pid = run.engine.pid
    for one in (pid, *run.engine.children().values()):
        os.kill(one, signal.SIGTERM)
    run.wait(lambda: not run.engine.is_running(), "the engine drains and ends", 30.0)
    log = run.engine.log()
    run.engine.start()
    return f"drained, {pid} → {run.engine.pid}" if "drained" in log and "child_replaced" not in log else ""
