"""Whether the packages are installed that OTLP takes."""

from __future__ import annotations

from importlib.util import find_spec

from engine.config import Settings
from engine.errors import Problem

OTLP_MODULES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def examine_extras(settings: Settings) -> list[Problem]:
    """Return what is missing of the packages that the settings need."""
    if not settings.otlp.is_on or all(map(_is_there, OTLP_MODULES)):
        return []
    hint = "pip install 'ingest-engine[otlp]', or leave the section out"
    return [Problem("otlp", "the packages of OpenTelemetry are not installed", hint)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
