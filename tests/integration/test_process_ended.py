"""A function's process ends in the middle of its work, and what it had sent takes effect later."""

from __future__ import annotations

from pathlib import Path

from engine.sandbox.functions.spec import FunctionSpec
from tests.support import ROUTE, wait_for, whole_path

LATE_S = 1.5
HANDLER = f"""
import json, os, subprocess, sys
from pathlib import Path

HERE = Path(os.environ["HERE"])
WRITE = "import sys, time; time.sleep(float(sys.argv[1])); open(sys.argv[2], 'a').write(sys.argv[3] + chr(10))"

def handler(event, context):
    for record in event["records"]:
        value = json.loads(record["body"])["tea"]
        if not (HERE / "died").exists():
            (HERE / "died").touch()
            late = [sys.executable, "-c", WRITE, "{LATE_S}", str(HERE / "store"), value]
            subprocess.Popen(late, start_new_session=True)
            os._exit(1)
        with (HERE / "store").open("a") as store:
            store.write(value + chr(10))
"""


def test_a_dead_process_does_not_overwrite_a_newer_value(tmp_path: Path) -> None:
    """The key goes out again only after the fence of the process that ended: its late write comes first."""
    (tmp_path / "mortal.py").write_text(HANDLER)
    surroundings = {"PYTHONPATH": str(tmp_path), "HERE": str(tmp_path)}
    functions = [FunctionSpec("mortal", "mortal.handler", environment=surroundings)]
    store = tmp_path / "store"
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(ROUTE.replace('"accept"', '"mortal"'), shards=1, invokers=1)
        limits = "[delivery]\ndeadline_ms = 3000\ndeadline_margin_ms = 1000\n"
        path.config.write_text(path.config.read_text().replace("[delivery]\n", limits))
        path.start()
        path.client.hset("cart:1", "tea", "1")
        wait_for(lambda: (tmp_path / "died").exists(), "the process's end")
        path.client.hset("cart:1", "tea", "2")
        wait_for(lambda: store.exists() and "1" in store.read_text().split(), "the late write")
        wait_for(lambda: store.read_text().split()[-1] == "2", "the newer value")
        assert store.read_text().split() == ["1", "2"]
        assert path.totals()["invocations_lost"] == 1
        assert path.stop() == 0
