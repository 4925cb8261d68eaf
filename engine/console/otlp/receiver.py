"""The receiver of OTLP/HTTP: where it is, who sends, and whether it takes what it is sent."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from engine import __version__
from engine.config import Settings
from engine.observe.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

log = get_logger(__name__)


def url_of(endpoint: str, signal: str) -> str | None:
    """Return where a signal goes, None if the SDK's own variables and default say it."""
    return f"{endpoint.rstrip('/')}/v1/{signal}" if endpoint else None


def resource_of(settings: Settings) -> Resource:
    """Return who sends: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count for more than our own words."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {
        "service.name": "ingest-engine",
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}:{settings.capture.slice}",
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def quiet() -> None:
    """Keep the SDK from writing lines of its own: `Standing` says what there is to say."""
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


class Standing:
    """Says when a receiver takes nothing any more, and when it does again; one thread at a time."""

    def __init__(self, what: str, url: str | None) -> None:
        self._about = {"what": what, "to": url or "as OTEL_EXPORTER_OTLP_ENDPOINT says"}
        self._is_refused = False

    def heard(self, *, is_taken: bool) -> None:
        """Take in what became of the newest export."""
        if is_taken == self._is_refused:
            self._is_refused = not is_taken
            if is_taken:
                log.info("otlp_taken_again", **self._about)
            else:
                log.warning("otlp_not_taken", **self._about, hint="is the receiver there? what it misses is dropped")
