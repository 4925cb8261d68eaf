"""The table of carts that the tests of the Aurora MySQL function write to, and how they invoke it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lambdas.aurora_mysql import handler as function
from tests.mariadb import MariaDB

CARTS: dict[str, Any] = {
    "keys": ["cart:*"],
    "table": "carts",
    "key": {"column": "cart_id", "prefix": "cart:"},
    "columns": {"owner": "text", "qty": {"column": "quantity", "type": "int"}, "total": "decimal"},
}
CREATE_CARTS = """
CREATE OR REPLACE TABLE carts (
  cart_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  owner VARCHAR(20) NULL, quantity INT NULL, total DECIMAL(10,2) NULL, deleted_at DATETIME(3) NULL, version BIGINT NULL
)"""


class Context:
    """What Lambda hands to a function."""

    def __init__(self, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


SetUp = Callable[..., None]


@contextmanager
def new_containers(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """Return what gives the function its variables, as a new container has them."""

    def forget() -> None:
        function._settings.cache_clear()
        function._writer.cache_clear()

    def apply(mapping: dict[str, Any] | None = None, **more: str) -> None:
        for name in [name for name in os.environ if name.startswith("AURORA_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment(AURORA_MAPPING=json.dumps([mapping or CARTS]), **more).items():
            monkeypatch.setenv(name, value)
        forget()

    server.execute(CREATE_CARTS)
    apply()
    yield apply
    forget()


def record(number: int, key: str, fields: dict[str, str] | None, version: int = 1, **more: Any) -> dict[str, Any]:
    body = None if fields is None else json.dumps(fields)
    return {"record_id": str(number), "id": key, "body": body, "version": version, "type": "hash"} | more


def invoke(*records: dict[str, Any], **more: Any) -> list[str]:
    """Return the identifiers of the records that failed."""
    answer = function.handler({"records": list(records)} | more, Context())
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def cart(server: MariaDB, key: str, columns: str = "owner, quantity, total, version") -> tuple[Any, ...] | None:
    rows = server.execute(f"SELECT {columns} FROM carts WHERE cart_id = '{key}'")
    return rows[0] if rows else None
