"""A hash becomes an item of three attributes: one record an invocation, as the 2020 original's functions have it."""

from __future__ import annotations

import os
from typing import Any

import boto3

table = boto3.resource("dynamodb").Table(os.environ["TABLE"])


def handler(event: dict[str, Any], context: Any) -> None:
    """Write one record; what is raised is a failure, and the record comes again."""
    table.put_item(Item={"id": event["id"], "obj_name": event["obj_name"], "body": event["body"]})
