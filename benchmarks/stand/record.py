"""When a server's keys really change, as a trace that a load can follow. ``make record SECONDS=60 FILE=trace.txt``.

Only the moments are written, as seconds from the beginning, a line each: no key, no value. The server's settings are
left as they are.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.drive.schedule import NS, TRACE_LINES_MAX, Offsets
from benchmarks.stand.servers import ServerError, named_server, opened
from engine.config import RedisSettings
from engine.errors import EngineError
from engine.redis.connection import NOTHING

EVENTS_AT_ONCE = 4_096


def record(redis: RedisSettings, event: str, seconds: float) -> Offsets:
    """Return when this event happened on the server's keys, in ns from the beginning; raise `ServerError`."""
    with opened(redis) as connection:
        flags = connection.call("CONFIG", "GET", "notify-keyspace-events")
        if isinstance(flags, list) and len(flags) == 2 and "E" not in flags[1]:
            raise ServerError(
                f"{connection.address} tells of no events: its notify-keyspace-events is {flags[1]!r}, and has no E; "
                "an engine that watches it sets what is wanted"
            )
        connection.call("SUBSCRIBE", f"__keyevent@{connection.address.database}__:{event}")
        began_ns, moments = time.monotonic_ns(), np.zeros(EVENTS_AT_ONCE, np.int64)
        count = 0
        while (passed_ns := time.monotonic_ns() - began_ns) < seconds * NS and count < TRACE_LINES_MAX:
            if not connection.receive_available():
                time.sleep(0.0005)
                continue
            while connection.reply() is not NOTHING:
                if count == len(moments):
                    moments = np.concatenate([moments, np.zeros_like(moments)])
                moments[count] = passed_ns
                count += 1
    return moments[:count]


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=60.0, show_default=True)
@click.option("--event", default="hset", show_default=True, help="What is counted as a change.")
@click.option("--file", "path", type=click.Path(path_type=Path), default=Path("trace.txt"), show_default=True)
def main(seconds: float, event: str, path: Path) -> None:
    """Write when keys change on the server that REDIS_URL names."""
    if not os.environ.get("REDIS_URL"):
        raise click.ClickException("name the server to listen to: REDIS_URL=redis://…")
    try:
        moments = record(named_server(os.environ).redis, event, seconds)
        with path.open("w") as file:
            file.writelines(f"{moment / NS:.6f}\n" for moment in moments)
    except (ServerError, EngineError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from error
    click.echo(f'{len(moments):,} changes written to {path}; a scenario follows it by [arrivals] kind = "trace"')


if __name__ == "__main__":
    main()
