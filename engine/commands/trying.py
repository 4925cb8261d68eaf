"""``engine sandbox`` and ``engine demo``: everything on one machine."""

from __future__ import annotations

import click

from engine.commands.base import examples, json_option


@click.command(epilog=examples("engine sandbox", "engine sandbox --redis-port 0 --dynamodb-port 0 --lambda-port 0"))
@click.option("--redis-port", type=click.IntRange(0, 65_535), default=6379, show_default=True)
@click.option("--dynamodb-port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option("--lambda-port", type=click.IntRange(0, 65_535), default=9001, show_default=True)
@click.option("--table", help="The DynamoDB table that is made.")
@json_option
def sandbox(redis_port: int, dynamodb_port: int, lambda_port: int, table: str | None, as_json: bool) -> int:
    """Run the embedded stack (Valkey, DynamoDB, a Lambda runtime) until stopped. A port of 0: a free one."""
    from engine.sandbox.run import run_sandbox

    named = {"table": table} if table else {}
    return run_sandbox(
        redis_port=redis_port,
        dynamodb_port=dynamodb_port,
        lambda_port=lambda_port,
        json_output=as_json,
        **named,
    )


@click.command(epilog=examples("engine demo"))
def demo() -> int:
    """See hashes set in Valkey appear in a DynamoDB table, and every key compared. About a minute."""
    from engine.sandbox.demo import run_demo

    return run_demo()
