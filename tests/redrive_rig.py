"""Dead letters, and an engine that hears or is deaf, for the tests of redrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from engine.config import AwsSettings, DeliverySettings, RouteSettings, Settings
from engine.delivery.failures.dead_letter import DeadLetter, encode_letter
from engine.errors import EngineError
from engine.marks.marker import NotListening
from engine.redrive.letters import Letter

AT_MS = 1_763_890_010_123


def letter(key: str, route: str = "carts", body: str | None = "{}", **changes: Any) -> DeadLetter:
    record = msgspec.Raw(orjson.dumps({"id": key, "body": body}))
    whole = DeadLetter(AT_MS, route, "f", key, "hset", 1_000, 3, "it broke", record=record)
    return msgspec.structs.replace(whole, **changes)


def line(key: str, route: str = "carts", **changes: Any) -> bytes:
    return encode_letter(letter(key, route, **changes)) + b"\n"


class FakeEngine:
    """Stands for server and engine: hears every key but those that ``is_deaf_to`` tells of."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self.is_deaf_to: Callable[[bytes], bool] = lambda key: False
        self.before: Callable[[], None] = lambda: None
        self.problem: EngineError | None = None

    def send(self, letters: Sequence[Letter]) -> list[bool]:
        self.before()
        heard = [not self.is_deaf_to(one.key) for one in letters]
        self.heard += [(one.key, one.event) for one, is_heard in zip(letters, heard, strict=True) if is_heard]
        if not all(heard):
            self.problem = NotListening("nobody listens", hint="start the engine")
        return heard

    def orphans(self, letters: Sequence[Letter]) -> list[bool]:
        return [False] * len(letters)

    def close(self) -> None:
        pass

    @property
    def keys(self) -> list[bytes]:
        return [key for key, _ in self.heard]


def settings_of(file: Path, **on_failure: str) -> Settings:
    routes = [RouteSettings(name=name, function="f", on_failure=arn) for name, arn in on_failure.items()]
    return Settings(
        delivery=DeliverySettings(dead_letter_file=str(file)),
        aws=AwsSettings(region="eu-west-1"),
        routes=tuple(routes or [RouteSettings(name="carts", function="f")]),
    )
