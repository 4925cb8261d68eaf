"""The whole path from streams: a real engine, a recording function, and an application that writes entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.sandbox.functions.runtime import FunctionSpec
from tests.support import PathUnderTest, wait_for, whole_path

NAMES = 'source = "stream"\nstreams = ["changes"]\nkey_field = "key"\n'
"""Entries name keys."""
CARRIES = 'source = "stream"\nstreams = ["orders"]\nfields = ["*"]\n'
"""Entries are records themselves."""
ROUTE = """\
[[routes]]
name = "all"
function = "accept"
events = ["changes"]
"""


@dataclass
class StreamsUnderTest:
    """An engine that reads streams; the attributes of `PathUnderTest` are those of ``path``."""

    path: PathUnderTest
    client: Any
    stream: str

    def write(self, key: str, **fields: str) -> None:
        """Change a hash, and say so."""
        self.client.hset(key, mapping=fields)
        self.client.xadd(self.stream, {"key": key, "event": "hset"})

    def group(self) -> dict[str, Any]:
        """Return how the group stands."""
        (group,) = self.client.xinfo_groups(self.stream)
        return dict(group)

    def wait_acknowledged(self, stream: str = "") -> None:
        """Return once the group has read everything, and nothing is left to be acknowledged."""

        def is_over() -> bool:
            name = stream or self.stream
            (group,) = self.client.xinfo_groups(name)
            is_read: bool = group["last-delivered-id"] == self.client.xinfo_stream(name)["last-generated-id"]
            return is_read and not group["pending"]

        wait_for(is_over, "everything is read and acknowledged")

    def logged(self, what: str) -> list[str]:
        """Return the lines of the engine's log that tell of this."""
        return [line for line in self.path.log().splitlines() if f" {what}" in line]


@contextmanager
def streams_path(
    folder: Path,
    capture: str = NAMES,
    route: str = ROUTE,
    *,
    binary: Path | None = None,
    functions: Sequence[FunctionSpec] = (FunctionSpec("accept", "accept"),),
    server_config: Mapping[str, str | Sequence[str]] | None = None,
    starts: bool = True,
) -> Iterator[StreamsUnderTest]:
    """Run a server, a function and an engine with these settings."""
    with whole_path(folder, binary=binary, functions=functions, server_config=server_config) as path:
        path.write_config(route)
        path.config.write_text(path.config.read_text().replace("[capture]\n", f"[capture]\n{capture}"))
        if starts:
            path.start()
        yield StreamsUnderTest(path, path.client, "changes" if "key_field" in capture else "orders")
