"""Shopping carts, counted: a line of log and a metric for each cart that changed."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.examples.powertools.processor import ChangedKeys

logger = Logger(service="carts")
metrics = Metrics(namespace="Carts", service="carts")
processor = ChangedKeys()


def count_cart(record: dict[str, Any]) -> None:
    """Take in one changed cart: a hash of products and quantities; None if it is gone."""
    if record["body"] is None:
        logger.info("cart gone", key=record["id"])
        return
    # A quantity that is no number raises: this cart comes again, and its neighbours do not.
    items = sum(int(quantity) for quantity in json.loads(record["body"]).values())
    logger.info("cart changed", key=record["id"], items=items)
    metrics.add_metric("items", MetricUnit.Count, items)


@metrics.log_metrics
def handler(event: Any, context: Any) -> dict[str, list[dict[str, str]]]:
    """Take in a batch of the engine's; answer with the records that failed."""
    processor.deadline_ms = event.get("deadline_ms", 0)
    with processor(records=event["records"], handler=count_cart):
        processor.process()
    for record, error in processor.failed:
        logger.error("cart failed", key=record["id"], reason=str(error))
    metrics.add_metric("failed", MetricUnit.Count, len(processor.failed))
    return processor.response()
