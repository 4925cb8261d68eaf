"""Prices and machines, from the dated file that users edit: ``config/prices.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

FILE = Path("config/prices.toml")

Positive = Annotated[float, msgspec.Meta(gt=0)]


class PricesError(Exception):
    """The file can't be used; the message says where and why."""


class LambdaPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A million requests, a GB-second, and the function's memory and time.

    An invocation takes ``invocation_ms`` and ``item_ms`` an item.
    """

    million_requests: Positive
    gb_second: Positive
    memory_gb: Positive
    invocation_ms: Positive
    item_ms: Positive


class DynamoDbPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A million write units on demand, and the bytes that one of them writes."""

    million_write_units: Positive
    write_unit_bytes: Positive


class NetworkPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Interface endpoints of a network without a way to the internet, each in so many zones."""

    interface_endpoints: Annotated[int, msgspec.Meta(ge=0)] = 0
    zones: Annotated[int, msgspec.Meta(ge=1)] = 1
    endpoint_hour: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def hour(self) -> float:
        """Return what they cost an hour, but for what goes through them."""
        return self.interface_endpoints * self.zones * self.endpoint_hour


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of host; ``relative_core`` is a core's speed against the calibrated machine's."""

    name: str
    cores: Annotated[int, msgspec.Meta(ge=1)]
    memory_gib: Positive
    network_gbit_s: Positive
    hour: Positive
    relative_core: Positive = 1.0


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that costs."""

    as_of: str
    source: str
    currency: str
    function: LambdaPrices = msgspec.field(name="lambda")
    dynamodb: DynamoDbPrices
    hosts: Annotated[list[Host], msgspec.Meta(min_length=1)]
    network: NetworkPrices = NetworkPrices()


def read_prices(path: Path = FILE) -> Prices:
    """Return the prices; raise `PricesError`."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Prices)
    except OSError as error:
        raise PricesError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise PricesError(f"{path}: {error}") from error
