"""Functions for the sandbox's Lambda runtime, and how tests ask them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psutil

WAIT_S_MAX = 30.0

HANDLERS = '''
import dataclasses, os, pathlib, subprocess, sys, time

FOLDER = pathlib.Path(__file__).parent

def echo(event, context):
    return event

def about(event, context):
    print("about to answer")
    return {
        "request_id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "name": context.function_name,
        "left_ms": context.get_remaining_time_in_millis(),
        "table": os.environ["DYNAMO_TABLE"],
        "shared": os.environ["SHARED"],
        "profile": os.environ.get("AWS_PROFILE"),
        "pid": os.getpid(),
    }

def fail(event, context):
    raise KeyError("missing")

def leave(event, context):
    os._exit(3)

def stall(event, context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (FOLDER / "stalled").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)

def large(event, context):
    return "x" * event["size"]

def unserialisable(event, context):
    return {1, 2}

def touch(event, context):
    (FOLDER / event["touch"]).write_text("")

def wait(event, context):
    """Note that we have begun, and go on once the other file is there."""
    (FOLDER / event["touch"]).write_text("")
    while not (FOLDER / event["until"]).exists():
        time.sleep(0.005)
    return "done"
'''


def poll(condition: Callable[[], Any]) -> Any:
    """Return the condition's value as soon as it is true."""
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


def invoke(client: Any, function: str, event: Any) -> tuple[dict[str, Any], Any]:
    """Return boto3's response, and what the function said."""
    response = client.invoke(FunctionName=function, Payload=json.dumps(event))
    return response, json.loads(response["Payload"].read())


def is_running(pid: int) -> bool:
    """Return whether the process is there, and more than a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
