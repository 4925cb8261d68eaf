"""``engine sandbox`` and ``engine demo``: everything on one machine."""

from __future__ import annotations

import click

from engine.commands.base import DEFAULT_CONFIG, examples, file_of, json_option


@click.command(
    epilog=examples(
        "engine sandbox",
        "engine sandbox --function carts=my_function.py:handler",
        "engine sandbox --function carts=my_package.carts:handler --redis-url redis://127.0.0.1:6379/0",
        "engine sandbox --redis-port 0 --dynamodb-port 0 --lambda-port 0",
    )
)
@click.option(
    "--function",
    "functions",
    metavar="NAME=MODULE:HANDLER",
    multiple=True,
    help="A function of your own; may be repeated. Starts an engine, too.",
)
@click.option("--redis-url", metavar="URL", help="A server of your own, in place of the embedded one.")
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(),
    help=f"With --function: its routes (default: {DEFAULT_CONFIG} if it exists, otherwise every change of every key).",
)
@click.option("--no-engine", is_flag=True, help="With --function: start no engine.")
@click.option("--redis-port", type=click.IntRange(0, 65_535), default=6379, show_default=True)
@click.option("--dynamodb-port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option("--lambda-port", type=click.IntRange(0, 65_535), default=9001, show_default=True)
@click.option("--table", help="The DynamoDB table to create.")
@json_option
def sandbox(
    functions: tuple[str, ...],
    redis_url: str | None,
    config: str | None,
    no_engine: bool,
    redis_port: int,
    dynamodb_port: int,
    lambda_port: int,
    table: str | None,
    as_json: bool,
) -> int:
    """Run the embedded stack (Valkey, DynamoDB, a Lambda runtime) until stopped. Port 0 picks a free one.

    With --function it runs your function, and an engine that invokes it: what the function prints is shown, and a
    file that you change is imported again. State is discarded at the end. With --redis-url the engine captures your
    own server, and adds the notification flags that it needs there.
    """
    from engine.sandbox.run import Trial, run_sandbox

    trial = Trial(functions, redis_url or "", file_of(config) or "", runs_engine=bool(functions) and not no_engine)
    named = {"table": table} if table else {}
    return run_sandbox(
        redis_port=redis_port,
        dynamodb_port=dynamodb_port,
        lambda_port=lambda_port,
        json_output=as_json,
        trial=trial,
        **named,
    )


@click.command(epilog=examples("engine demo"))
def demo() -> int:
    """See hashes set in Valkey appear in a DynamoDB table, and every key compared. About a minute."""
    from engine.sandbox.demo import run_demo

    return run_demo()
