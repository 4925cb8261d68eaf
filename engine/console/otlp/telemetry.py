"""All that is sent by OTLP. The SDK is imported here, once something is to be sent."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config import Settings
from engine.console.otlp.receiver import quiet
from engine.observe.logs import get_logger
from engine.ring.counters import StatusRow

log = get_logger(__name__)

CLOSE_S_MAX = 1.0
"""How long the end waits for the last export."""


class Telemetry:
    """What the settings want sent; ``rows`` are those of `engine.console.source.Source`."""

    def __init__(self, settings: Settings, rows: Sequence[StatusRow] = ()) -> None:
        self._metrics = None
        try:
            if settings.otlp.metrics_interval_s:
                from engine.console.otlp.metrics import MetricsSender

                quiet()
                self._metrics = MetricsSender(settings, rows)
        except (ImportError, ValueError) as error:
            # The start looks for the packages; variables of the SDK's may hold anything.
            log.error("otlp_unavailable", error=str(error), hint="see docs/operate.md, and the variables OTEL_*")

    def close(self) -> None:
        """Send what is left, for a second at most."""
        if self._metrics is not None:
            self._metrics.close(CLOSE_S_MAX)
