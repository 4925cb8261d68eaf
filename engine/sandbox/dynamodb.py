"""A DynamoDB on this machine: moto's server in a process of its own."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from engine.sandbox import aws
from engine.sandbox.errors import require_module
from engine.sandbox.service import Service


class DynamoDbServer(Service):
    """A DynamoDB that forgets everything when it stops; a context manager."""

    def __init__(self, port: int = 0) -> None:
        super().__init__("engine.sandbox.dynamodb_server", "the sandbox's DynamoDB", port)

    def launch(self, listener: socket.socket, environment: Mapping[str, str] | None = None) -> None:
        """Start the process; raise SandboxError if moto is not installed."""
        with listener:
            require_module("moto", self._part)
            require_module("werkzeug", self._part)
            super().launch(listener, environment)

    def client(self) -> Any:
        """Return a boto3 client of this server."""
        return aws.client("dynamodb", self.endpoint)

    def create_table(self, name: str) -> None:
        """Make a table with the partition key ``id``, a string, unless it is there."""
        client = self.client()
        try:
            client.create_table(
                TableName=name,
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except client.exceptions.ResourceInUseException:
            pass
        finally:
            client.close()
