"""Checks of the settings of OTLP: where it goes."""

from __future__ import annotations

from urllib.parse import urlsplit

from engine.settings.draft import Draft

_FORMS = "as in http://127.0.0.1:4318; the paths /v1/traces and /v1/metrics are added"


def check_otlp(draft: Draft) -> None:
    """Note an endpoint that is not a base URL, or has no effect."""
    endpoint, place = draft.get("otlp.endpoint"), draft.place("otlp.endpoint")
    if not endpoint:
        return
    try:
        url = urlsplit(endpoint)
        is_base = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        is_base = is_base and not (url.query or url.fragment)
    except ValueError:
        is_base = False
    if not is_base:
        draft.say(place, "is not the base URL of a receiver of OTLP/HTTP", _FORMS)
    elif url.username is not None or url.password is not None:
        draft.say(place, "the URL holds credentials", "give them in OTEL_EXPORTER_OTLP_HEADERS")
    elif not (draft.get("otlp.metrics_interval_s") or draft.get("otlp.traced_changes_per_million")):
        hint = "set otlp.metrics_interval_s or otlp.traced_changes_per_million"
        draft.say(place, "has no effect while nothing is sent", hint)
