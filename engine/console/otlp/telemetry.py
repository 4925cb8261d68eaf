"""All that is sent by OTLP. The SDK is imported here, once something is to be sent."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine.config import Settings
from engine.console.otlp.receiver import quiet
from engine.observe.logs import get_logger
from engine.ring.counters import StatusRow

if TYPE_CHECKING:
    from engine.console.otlp.spans import SpanSender

log = get_logger(__name__)

CLOSE_S_MAX = 1.0
"""How long the end waits for the last export."""


class Sender(Protocol):
    """Sends something, in threads of its own."""

    def close(self, limit_s: float) -> None:
        """Send what is left, and end; give it up after so long."""


class Telemetry:
    """What the settings want sent; ``rows`` are those of `engine.console.source.Source`."""

    def __init__(self, settings: Settings, rows: Sequence[StatusRow] = (), spans: socket.socket | None = None) -> None:
        self._senders: list[Sender] = []
        self._spans: SpanSender | None = None
        if not settings.otlp.is_on:
            return
        quiet()
        try:
            if spans is not None:
                from engine.console.otlp.spans import SpanSender

                self._spans = SpanSender(settings, spans)
                self._senders.append(self._spans)
            if settings.otlp.metrics_interval_s:
                from engine.console.otlp.metrics import MetricsSender

                self._senders.append(MetricsSender(settings, rows, self.spans))
        except (ImportError, ValueError) as error:
            # The start looks for the packages; variables of the SDK's may hold anything.
            log.error(
                "otlp_unavailable", error=str(error), hint="check the variables OTEL_*, and install the extra otlp"
            )

    def spans(self) -> Mapping[str, int]:
        """Return how many spans became what, none where nothing is traced."""
        return msgspec.structs.asdict(self._spans.tally) if self._spans is not None else {}

    def close(self) -> None:
        """Send what is left, for a second or two."""
        for sender in self._senders:
            sender.close(CLOSE_S_MAX)
