"""The embedded stack as a whole: Valkey, DynamoDB and a Lambda runtime, started side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from engine.sandbox.aws import child_environment, sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.runtime import ACCEPT, FunctionSpec, LambdaRuntime
from engine.sandbox.service import Service
from engine.sandbox.valkey import Config, ValkeyServer

__all__ = ["Sandbox", "child_environment", "default_functions", "sandbox_environment"]

DEFAULT_TABLE = "engine-sandbox"


def default_functions(table: str) -> list[FunctionSpec]:
    """Return the functions that a sandbox has of itself: our own, and the stand-in that accepts everything."""
    return [
        FunctionSpec("dynamodb", "lambdas.dynamodb.handler:handler", environment={"DYNAMO_TABLE": table}),
        FunctionSpec("accept", ACCEPT),
    ]


class Sandbox:
    """All three parts, and a table; a context manager. A port of 0 means a free one.

    With ``redis_url`` that server is used, and none is started.
    """

    def __init__(
        self,
        redis_port: int = 0,
        dynamodb_port: int = 0,
        lambda_port: int = 0,
        table: str = DEFAULT_TABLE,
        functions: Sequence[FunctionSpec] | None = None,
        journal: str | Path | None = None,
        journal_payloads: bool = False,
        *,
        redis_config: Config | None = None,
        redis_url: str = "",
    ) -> None:
        self.table = table
        self._redis_url = redis_url
        self._valkey = None if redis_url else ValkeyServer(redis_port, config=redis_config)
        self.dynamodb = DynamoDbServer(dynamodb_port)
        self.lambda_runtime = LambdaRuntime(
            default_functions(table) if functions is None else functions, lambda_port, journal, journal_payloads
        )

    @property
    def is_embedded(self) -> bool:
        """Tell whether the server is one of ours."""
        return self._valkey is not None

    @property
    def valkey(self) -> ValkeyServer:
        """Return the embedded server, which there must be."""
        assert self._valkey is not None
        return self._valkey

    @property
    def redis_url(self) -> str:
        """Return the URL of the Valkey server, or of the one that is used in its place."""
        return self._redis_url or self.valkey.url

    @property
    def dynamodb_endpoint(self) -> str:
        """Return the DynamoDB's URL."""
        return self.dynamodb.endpoint

    @property
    def lambda_endpoint(self) -> str:
        """Return the Lambda runtime's URL."""
        return self.lambda_runtime.endpoint

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make boto3 and the engine use this sandbox."""
        return sandbox_environment(
            redis_url=self.redis_url,
            lambda_endpoint=self.lambda_endpoint,
            dynamodb_endpoint=self.dynamodb_endpoint,
        )

    def child_environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a whole environment for a process that is to use this sandbox, without any AWS profile."""
        return child_environment(os.environ if base is None else base, self.environment)

    def dynamodb_client(self) -> Any:
        """Return a boto3 client of the DynamoDB."""
        return self.dynamodb.client()

    def lambda_client(self) -> Any:
        """Return a boto3 client of the Lambda runtime."""
        return self.lambda_runtime.client()

    def start(self) -> Self:
        """Start everything, and make the table; raise SandboxError, with nothing left running, if a part fails."""
        try:
            # All processes first, then wait for each: the slowest alone decides how long it takes.
            if self._valkey is not None:
                self._valkey.launch()
            self.dynamodb.launch(self.dynamodb.bind())
            # Bound before it is started, so the functions can be told where their table will be.
            listener = self.lambda_runtime.bind()
            self.lambda_runtime.environment.update(
                sandbox_environment(lambda_endpoint=self.lambda_endpoint, dynamodb_endpoint=self.dynamodb_endpoint)
            )
            self.lambda_runtime.launch(listener)
            if self._valkey is not None:
                self._valkey.wait_ready()
            self.dynamodb.wait_ready()
            self.dynamodb.create_table(self.table)
            self.lambda_runtime.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything; what is not there is passed over."""
        self.lambda_runtime.stop()
        self.dynamodb.stop()
        if self._valkey is not None:
            self._valkey.close()

    def ended_parts(self) -> list[str]:
        """Return the names of the parts that are not running."""
        parts: dict[str, ValkeyServer | Service] = {} if self._valkey is None else {"Valkey": self._valkey}
        parts |= {
            "DynamoDB": self.dynamodb,
            "the Lambda runtime": self.lambda_runtime,
        }
        return [name for name, part in parts.items() if not part.is_running()]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
